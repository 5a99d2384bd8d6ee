"""The time of one epoch of training."""

import time


class Clock:
    """Takes the time of an epoch, by the wall and of this process's processors, in seconds."""

    wall = processor = 0.0

    def start(self) -> None:
        """An epoch begins."""
        self.began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """An epoch ends, or has come this far."""
        self.wall = time.perf_counter() - self.began[0]
        self.processor = time.process_time() - self.began[1]
