"""The line in which requests wait for the model, in the order in which they came."""

import threading
import time
from collections import deque
from concurrent.futures import Future

from .answering import Answer, Query
from .limits import ServingLimits
from .refusals import Refused


class Job:
    """A query, and where its answer goes; cancelling the future takes it out of the line."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.answer: Future[Answer] = Future()


class Line:
    """Jobs that wait. Safe to use from several threads.

    Args:
        limits: how many histories may wait, how many are taken together, and how long a few wait
            for more.
    """

    def __init__(self, limits: ServingLimits) -> None:
        self._limits = limits
        self._jobs: deque[Job] = deque()
        self._waiting = 0  # histories
        self._is_closed = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many histories wait."""
        return self._waiting

    def put(self, query: Query) -> Job:
        """Lines a query up.

        Raises:
            Refused: if there is no room, or the server stops.
        """
        job = Job(query)
        with self._changed:
            if self._is_closed:
                raise Refused(503, "stopping", "the server stops; ask another", retry_after=1)
            if self._jobs and self._waiting + len(query) > self._limits.max_waiting:
                self._forget_cancelled()
            if self._jobs and self._waiting + len(query) > self._limits.max_waiting:
                raise Refused(
                    503,
                    "busy",
                    f"{self._waiting} histories wait already, and no more than "
                    f"{self._limits.max_waiting} may; come again later",
                    retry_after=1,
                )
            self._jobs.append(job)
            self._waiting += len(query)
            self._changed.notify_all()
        return job

    def take(self) -> list[Job]:
        """Waits for jobs, and takes those that are computed together; none: there come no more."""
        with self._changed:
            taken: list[Job] = []
            while not taken:
                self._changed.wait_for(lambda: self._jobs or self._is_closed)
                if not self._jobs:
                    break
                self._wait_for_more()
                taken = self._first_ones()  # none where all were cancelled
            return taken

    def _first_ones(self) -> list[Job]:
        taken: list[Job] = []
        room = self._limits.max_batch_size
        while self._jobs and (not taken or len(self._jobs[0].query) <= room):
            job = self._jobs.popleft()
            self._waiting -= len(job.query)
            if job.answer.set_running_or_notify_cancel():
                taken.append(job)
                room -= len(job.query)
        return taken

    def close(self) -> None:
        """Takes no more; what waits is still to be taken."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def refuse_all(self, refusal: Refused) -> None:
        """Closes, and refuses all that wait."""
        self.close()
        with self._changed:
            jobs, self._waiting = list(self._jobs), 0
            self._jobs.clear()
        for job in jobs:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(refusal)

    def _wait_for_more(self) -> None:
        until = time.monotonic() + self._limits.max_wait_ms / 1000
        while self._waiting < self._limits.max_batch_size and not self._is_closed:
            left = until - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def _forget_cancelled(self) -> None:
        self._jobs = deque(job for job in self._jobs if not job.answer.cancelled())
        self._waiting = sum(len(job.query) for job in self._jobs)
