"""The most memory that this process has held."""

import sys

import psutil

MEBIBYTE = 2**20


def peak_mebibytes() -> float:
    """Returns the largest resident memory of this process so far, as the system counts it."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / MEBIBYTE)
    import resource

    unit = MEBIBYTE if sys.platform == "darwin" else 2**10  # Linux counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
