"""Random streams keyed by a seed and a place, so that no draw depends on any other."""

from __future__ import annotations

import hashlib
from random import Random


def stream(seed: int, *keys: str | int) -> Random:
    """Return the generator that belongs to `keys` under `seed`."""
    text = "/".join([str(seed), *map(str, keys)])
    return Random(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest()))
