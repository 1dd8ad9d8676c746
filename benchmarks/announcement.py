"""What a server says on its standard output once it is ready, and nothing before."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Final, Self

_LINE: Final = re.compile(r"ready at (?P<address>[^,]+),(?:.* metrics (?P<metrics>\S+)$)?")


@dataclass(frozen=True, slots=True)
class Announcement:
    """Where a server listens; `metrics` is "" if nowhere."""

    address: str
    metrics: str

    @classmethod
    def read(cls, output: IO[str] | None, errors: Callable[[], str] = str) -> Self:
        """Wait for a server's first line.

        Raises:
            RuntimeError: it ended without one, or said something else; `errors` tells more.
        """
        found = _LINE.match("" if output is None else output.readline())
        if found is None:
            raise RuntimeError(f"the server did not start\n{errors()}")
        return cls(found["address"], found["metrics"] or "")
