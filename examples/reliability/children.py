"""Jobs in forks of this process, which have imported everything, and their sudden ends."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Job = Callable[[], object]
PAUSE = 0.002  # seconds between two looks
PATIENCE = 600  # seconds after which a job that was let alone counts as hung


class Child(NamedTuple):
    """A job that runs.

    Args:
        pid: of its process, which leads a group of its own.
        log: file of what it prints.
    """

    pid: int
    log: Path

    def kill(self) -> bool:
        """Kills it and all that it started; False where it had ended by itself, and well.

        Raises:
            RuntimeError: if it had ended otherwise.
        """
        os.killpg(self.pid, signal.SIGKILL)
        return self._ended(os.waitpid(self.pid, 0)[1])

    def is_over(self) -> bool:
        """Tells whether it has ended, without forgetting how."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> None:
        """Lets it end.

        Raises:
            RuntimeError: if it fails, or does not end.
        """
        deadline = time.monotonic() + PATIENCE
        while not self.is_over():
            if time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"a job has not ended after {PATIENCE} s: {self.said()}")
            time.sleep(PAUSE)
        self._ended(os.waitpid(self.pid, 0)[1])

    def said(self) -> str:
        """Returns the end of what it printed."""
        return self.log.read_text("utf-8", errors="replace")[-3000:]

    def _ended(self, status: int) -> bool:
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return True
        if status:
            raise RuntimeError(f"a job failed by itself: {self.said()}")
        return False


def start(job: Job, log: Path) -> Child:
    """Starts a job; the parent must not have run anything that has threads, as polars does."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        os.setpgid(pid, pid)  # here too: it may be killed before it has done so itself
        return Child(pid, log)
    code = 1
    try:
        os.setpgid(0, 0)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        job()
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
