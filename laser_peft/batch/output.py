"""The folder of a job: parts that are whole or not there, and what the job was started with.

``part-000000.parquet`` and so on hold the recommendations, in the order of the histories;
``_job/run.json`` what decides them; ``_SUCCESS`` is there when all parts are. Readers of Parquet
folders (Spark, DuckDB's ``*.parquet``, polars' glob) pass by what begins with ``_`` or a dot.
"""

import os
from pathlib import Path
from typing import Any

import polars as pl

from laser_peft.runs import check_new, check_same, start_or_check

JOB, DONE = "_job", "_SUCCESS"


class PartFolder:
    """The parts of a job.

    Args:
        folder: new, empty, or of the same job.

    Raises:
        FileExistsError: if it holds something, and that is no such job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / JOB).is_dir():
            check_new(folder, advice="it holds no job of recommend-many; choose another folder")

    def check(self, settings: Any, data: dict[str, Any]) -> None:
        """Makes sure that the job here, if there is one, is the same; arguments as below."""
        check_same(self.folder / JOB, settings, data)

    def start(self, settings: Any, data: dict[str, Any]) -> None:
        """Says what the job is, or makes sure that the one here is the same.

        Args:
            settings: a dataclass of what decides the output.
            data: what it is made of, as JSON.

        Raises:
            ValueError: if the job here was started otherwise.
        """
        try:
            start_or_check(self.folder / JOB, settings, data)
        except FileNotFoundError:  # another process of this job has just written the same
            check_same(self.folder / JOB, settings, data)

    def path(self, number: int) -> Path:
        """Returns where part ``number``, from 0, is or will be."""
        return self.folder / f"part-{number:06d}.parquet"

    def has(self, number: int, height: int) -> bool:
        """Tells whether a part is there.

        Raises:
            ValueError: if a file of its name does not have ``height`` rows: it is none of ours, or
                damaged.
        """
        path = self.path(number)
        if not path.exists():
            return False
        advice = "delete it, and the same command makes it again"
        try:
            found = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}); {advice}") from error
        if found != height:
            raise ValueError(f"{path} has {found} rows, and part {number} has {height}; {advice}")
        return True

    def write(self, number: int, frame: pl.DataFrame) -> None:
        """Writes a part beside its place first: one of its name is always whole."""
        path = self.path(number)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with unfinished.open("wb") as file:
                frame.write_parquet(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)  # on a full disk it is in the way
        for left in self.folder.glob(f".{path.name}.*"):  # by one that was killed
            left.unlink(missing_ok=True)

    def finish(self, num_parts: int) -> bool:
        """Says that the job is done, if all parts are there; returns whether it is."""
        is_done = all(self.path(number).exists() for number in range(num_parts))
        if is_done:
            (self.folder / DONE).touch()
        return is_done
