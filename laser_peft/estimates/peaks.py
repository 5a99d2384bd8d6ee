"""The most memory that was held at one time while something ran."""

import threading
from types import TracebackType

import torch

from .memory import process_bytes

SECONDS_BETWEEN_LOOKS = 0.002


class PeakMemory:
    """Watches the memory of a device; that of the process on a CPU, looked at all the time.

    ``bytes`` is the most that was seen, what was there before included.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self.bytes = max(self.bytes, process_bytes(self.device))
            if self._ended.wait(SECONDS_BETWEEN_LOOKS):
                return
