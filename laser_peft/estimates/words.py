"""An estimate, and how it is said."""

from dataclasses import dataclass, replace

MINUTE, HOUR, DAY = 60, 3600, 86_400
GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """What one training may take.

    Args:
        name: of what is trained.
        work: how much there is to do, and how fast it was measured to go.
        training_seconds: without validations.
        validations: how many there are.
        validation_seconds: of all of them.
        test_seconds: of the test at the end.
        memory_bytes: at most at one time, in the whole process.
        stops_early: whether it may end before its last epoch.
    """

    name: str
    work: str
    training_seconds: float
    validations: int
    validation_seconds: float
    test_seconds: float
    memory_bytes: int
    stops_early: bool = False

    def shared_by(self, num_processes: int) -> "StageEstimate":
        """Returns what it may take where so many processes share the work of the one measured."""
        if num_processes == 1:
            return self
        return replace(
            self,
            work=f"{self.work} by one of the {num_processes} processes that share it",
            training_seconds=self.training_seconds / num_processes,
            validation_seconds=self.validation_seconds / num_processes,
            test_seconds=self.test_seconds / num_processes,
        )

    def __str__(self) -> str:
        total = self.training_seconds + self.validation_seconds
        about = "At most about" if self.stops_early else "About"
        of_it = say_seconds(self.validation_seconds)
        return (
            f"{about} {say_seconds(total)} for the {self.name} ({self.work}), "
            f"{of_it} of it for {say_count(self.validations, 'validation')}."
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run may take: one stage after the other.

    Args:
        stages: the trainings.
        on_accelerator: whether the memory is that of a GPU.
        limit_bytes: what the process can have of it, what it has included; None if unknown.
    """

    stages: tuple[StageEstimate, ...]
    on_accelerator: bool
    limit_bytes: int | None

    @property
    def memory_bytes(self) -> int:
        """What the largest stage needs."""
        return max((stage.memory_bytes for stage in self.stages), default=0)

    @property
    def seconds(self) -> float:
        """All stages with their validations and the tests."""
        return sum(
            stage.training_seconds + stage.validation_seconds + stage.test_seconds
            for stage in self.stages
        )

    def lines(self) -> list[str]:
        """Says it, a line a stage and one for the whole."""
        if not self.stages:
            return ["Nothing is left to train."]
        test = say_seconds(sum(stage.test_seconds for stage in self.stages))
        kind = "GPU memory" if self.on_accelerator else "memory"
        has = "" if self.limit_bytes is None else f", of {say_bytes(self.limit_bytes)} to be had"
        return [
            *(str(stage) for stage in self.stages),
            f"About {test} for the test; about {say_bytes(self.memory_bytes)} of {kind}{has}.",
        ]

    @property
    def warning(self) -> str | None:
        """What to do where the memory is too little; None where it is enough."""
        if self.limit_bytes is None or self.memory_bytes <= self.limit_bytes:
            return None
        return (
            f"the run may need about {say_bytes(self.memory_bytes)} of memory and can have "
            f"{say_bytes(self.limit_bytes)}: it may be killed; a smaller batch size, shorter "
            "prompts (max tokens), bfloat16 or a smaller language model needs less"
        )


def say_seconds(seconds: float) -> str:
    """Says a time with its largest unit, and the next one where it matters.

    Example:
        >>> [say_seconds(value) for value in (0.2, 41.3, 61, 2460, 8000, 200_000)]
        ['1 s', '41 s', '61 s', '41 min', '2 h 13 min', '2 d 8 h']
    """
    if seconds < 2 * MINUTE:
        return f"{max(round(seconds), 1)} s"
    if seconds < 2 * HOUR:
        return f"{round(seconds / MINUTE)} min"
    if seconds < 2 * DAY:
        minutes = round(seconds / MINUTE)
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / HOUR)
    return f"{hours // 24} d {hours % 24} h"


def say_count(count: int, what: str) -> str:
    """Says how many there are.

    Example:
        >>> say_count(1, "epoch"), say_count(22_363, "user")
        ('1 epoch', '22,363 users')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def say_bytes(count: float) -> str:
    """Says an amount of memory.

    Example:
        >>> say_bytes(2_140_000_000), say_bytes(42_000_000)
        ('2.1 GB', '0.1 GB')
    """
    return f"{max(count / GIGABYTE, 0.1):.1f} GB"
