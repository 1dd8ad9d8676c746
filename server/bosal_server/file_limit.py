"""How many connections the process's limit of open files leaves room for."""

import resource
from typing import Final

from bosal_server.config import InvalidConfig

# What a server takes of itself where the limit allows it.
_MOST: Final = 10_000
# Of everything that is no connection of gRPC: models, the database, logs, scrapes.
_RESERVED: Final = 256


def connections(wanted: int | None) -> int:
    """Return how many connections a server may hold; `wanted` is what it was told.

    Raises:
        InvalidConfig: it may not open so many files.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = _MOST if hard == resource.RLIM_INFINITY else hard - _RESERVED
    if wanted is None:
        return max(1, min(_MOST, room))
    if hard != resource.RLIM_INFINITY and wanted > room:
        raise InvalidConfig(
            f"max_connections: {wanted} need {wanted + _RESERVED} open files, and this process may "
            f"have {hard} (ulimit -Hn)"
        )
    return wanted


def raise_limit(num_connections: int) -> None:
    """Let this process open the files of so many connections and all else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_connections + _RESERVED
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
