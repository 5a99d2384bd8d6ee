"""All that decides how a log is read, in one value that can be saved."""

from dataclasses import dataclass

from .catalogue import Catalogue
from .columns import ITEM, TIME, USER, TimeUnit
from .interactions import Interactions, read_interactions


@dataclass(frozen=True)
class LogSource:
    """Where a log of interactions is, and how to read it.

    Args:
        path: a file, a folder, a glob or a data set of the Hub.
        user_column: says who.
        item_column: says what.
        time_column: says when; None if rows are in order already.
        time_unit: of times that are numbers.
        drop_bad_rows: leave out and count what cannot be used, instead of an error.
        drop_duplicates: leave out and count rows with equal user, item and time.
    """

    path: str
    user_column: str = USER
    item_column: str = ITEM
    time_column: str | None = TIME
    time_unit: TimeUnit = "s"
    drop_bad_rows: bool = False
    drop_duplicates: bool = False

    def read(self, catalogue: Catalogue | None) -> Interactions:
        """Reads the log; raises what :func:`.interactions.read_interactions` raises."""
        return read_interactions(
            self.path,
            user_column=self.user_column,
            item_column=self.item_column,
            time_column=self.time_column,
            time_unit=self.time_unit,
            catalogue=catalogue,
            on_bad_rows="drop" if self.drop_bad_rows else "raise",
            drop_duplicates=self.drop_duplicates,
        )
