"""What a request needs of one host, without who asks or when: requests of one shape are placed alike."""

from dataclasses import dataclass

from scheduler.money import MILLI_PER_GPU


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """`milli` is the share of each of the `gpus` devices: 1000 for whole ones; below that, there is one device.

    Raises:
        ValueError: no host could have such a shape.
    """

    cpu_milli: int
    memory_bytes: int
    gpus: int = 0
    milli: int = MILLI_PER_GPU

    def __post_init__(self) -> None:
        if self.cpu_milli < 0 or self.memory_bytes < 0 or self.gpus < 0:
            raise ValueError(f"{self}: nothing can be negative")
        if not 0 < self.milli <= MILLI_PER_GPU:
            raise ValueError(f"{self}: a share is 1 to {MILLI_PER_GPU} thousandths of a GPU")
        if self.milli < MILLI_PER_GPU and self.gpus > 1:
            raise ValueError(f"{self}: a share is of one GPU")

    @property
    def gpu_milli(self) -> int:
        """GPUs asked for, in thousandths."""
        return self.gpus * self.milli
