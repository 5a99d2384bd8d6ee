"""Keeps an ordinary ``pytest`` out: what is here needs the setting that run.py makes."""

collect_ignore_glob = ["*.py"]
