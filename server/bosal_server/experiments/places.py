"""Where an exposure belongs."""

from dataclasses import dataclass

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """The phase and unit of an exposure; a forced one is never analysed."""

    phase: int
    unit: bytes
    is_forced: bool
