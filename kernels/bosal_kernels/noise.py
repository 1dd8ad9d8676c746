"""The public noise specification: philox4x32-7 words and Gumbel noise keyed by 64-token groups."""

_MASK64 = 0xFFFF_FFFF_FFFF_FFFF


def choice_key(seed: int, choice: int) -> int:
    """Return the noise key of a choice: the seed itself for choice 0, else a splitmix64 of it."""
    if choice == 0:
        return seed & _MASK64
    state = (seed + choice * 0x9E3779B97F4A7C15) & _MASK64
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK64
    return state ^ (state >> 31)
