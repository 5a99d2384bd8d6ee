"""Lets ``python -m laser_peft`` stand for the command ``laser-peft``."""

from laser_peft.cli import app

app(prog_name="laser-peft")
