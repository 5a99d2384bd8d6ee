"""The one thread that holds the model: loads it, warms it up, answers batch after batch."""

import logging
import threading
from collections.abc import Callable, Sequence

from laser_peft.recommender import LaserRecommender

from .answering import answer
from .limits import ServingLimits
from .refusals import Refused
from .waiting import Job, Line

logger = logging.getLogger(__name__)


class Worker:
    """Answers the jobs of a line.

    Args:
        load: gives the recommender; called in the thread.
        limits: of the line.
        on_batch: told of each batch how many histories it has.
        on_failure: called if the model cannot be loaded, or the thread ends otherwise than asked.
    """

    def __init__(
        self,
        load: Callable[[], LaserRecommender],
        limits: ServingLimits,
        *,
        on_batch: Callable[[int], None] = lambda size: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.line = Line(limits)
        self.error: BaseException | None = None
        self.on_failure = on_failure
        self._load = load
        self._on_batch = on_batch
        self._recommender: LaserRecommender | None = None
        self._is_draining = self._has_started = False
        # A daemon: a process that is told to end twice does not wait for a batch.
        self._thread = threading.Thread(target=self._run, name="recommender", daemon=True)

    @property
    def is_healthy(self) -> bool:
        """False once the thread has ended unasked: the process is then to be started anew."""
        has_ended = self._has_started and not self._thread.is_alive()
        return self.error is None and (self._is_draining or not has_ended)

    @property
    def is_ready(self) -> bool:
        """Whether it answers: loaded, warmed up and not told to stop."""
        return self._recommender is not None and self.is_healthy and not self._is_draining

    @property
    def recommender(self) -> LaserRecommender:
        """What recommends.

        Raises:
            Refused: if it is not loaded yet, or has failed.
        """
        if not self.is_healthy:
            raise Refused(503, "failed", "the recommender has failed; the server's log says why")
        if self._recommender is None:
            raise Refused(503, "loading", "the recommender is being loaded", retry_after=5)
        return self._recommender

    def start(self) -> None:
        """Begins to load.

        Raises:
            RuntimeError: if it was started before: it holds one model for one life.
        """
        if self._has_started:
            raise RuntimeError(
                "the application was started before and stopped; make another with create_app"
            )
        self._has_started = True
        self._thread.start()

    def drain(self) -> None:
        """Is not ready any more, and answers what comes nevertheless."""
        self._is_draining = True

    def stop(self) -> None:
        """Takes no more jobs, answers those that wait, and ends."""
        self.drain()
        self.line.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        jobs: list[Job] = []
        try:
            recommender = self._load()
            recommender.recommend([], k=1)  # fills what is computed once
            self._recommender = recommender
            while jobs := self.line.take():
                self._on_batch(sum(len(job.query) for job in jobs))
                self._answer(recommender, jobs)
        except BaseException as error:  # whatever it is, nobody must wait for an answer
            self._fail(error, jobs)

    def _fail(self, error: BaseException, jobs: Sequence[Job]) -> None:
        if self._recommender is None:
            logger.error("the recommender cannot be loaded: %s", error)
        else:
            logger.exception("the recommender has failed")
        self.error = error
        failed = Refused(503, "failed", "the recommender has failed; the server's log says why")
        for job in jobs:
            if not job.answer.done():
                job.answer.set_exception(failed)
        self.line.refuse_all(failed)
        self.on_failure()

    def _answer(self, recommender: LaserRecommender, jobs: Sequence[Job]) -> None:
        """Answers jobs together; where that fails one by one, so that only the cause is told."""
        try:
            answers = answer(recommender, [job.query for job in jobs])
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._answer(recommender, [job])
                return
            logger.exception("a request failed")
            jobs[0].answer.set_exception(error)
            return
        for job, found in zip(jobs, answers, strict=True):
            job.answer.set_result(found)
