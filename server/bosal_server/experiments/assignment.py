"""Which variant a unit gets: a pure function of experiment, phase and unit.

The hash is SHA-256 of each field behind its length, so that no two inputs share their bytes;
everything after it is integers. Its values are part of the contract: changing them reshuffles
running experiments.
"""

import hashlib
from collections.abc import Sequence

# Shares are counted in millionths.
PPM = 1_000_000

_ASSIGN = "bosal/assign/v1"
_NAMESPACE = "bosal/namespace/v1"


def hash64(domain: str, salt: str, unit: str) -> int:
    """Return the first 8 bytes of SHA-256 over the length-prefixed fields, big-endian."""
    digest = hashlib.sha256()
    for field in (domain, salt, unit):
        data = field.encode("utf-8")
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return int.from_bytes(digest.digest()[:8], "big")


def bucket(salt: str, unit: str) -> int:
    """Return the unit's place under a phase's salt, from 0 to 999,999."""
    return hash64(_ASSIGN, salt, unit) * PPM >> 64


def namespace_bucket(namespace: str, unit: str) -> int:
    """Return the unit's place in a namespace, from 0 to 999,999."""
    return hash64(_NAMESPACE, namespace, unit) * PPM >> 64


def arm(place: int, weights_ppm: Sequence[int], coverage_ppm: int) -> int | None:
    """Return the index of the arm a place falls to; None outside the coverage.

    An arm's range begins where it always does and grows with the coverage, so raising it moves
    nobody from one arm to another.
    """
    start = 0
    for index, weight in enumerate(weights_ppm):
        if start <= place < start + weight:
            return index if (place - start) * PPM < weight * coverage_ppm else None
        start += weight
    return None


def salt(experiment: str, phase: int) -> str:
    """Return the salt of a phase."""
    return f"{experiment}:{phase}"
