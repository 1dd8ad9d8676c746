"""The rules that give way where a step would leave no token."""

from bosal_kernels import (
    YIELDED_BANS,
    YIELDED_MIN_TOKENS,
    YIELDED_PLAUSIBILITY,
    YIELDED_REPEATS,
)


def yielded_rules(bits: int) -> tuple[str, ...]:
    """The rules that gave way in a row of `Selection.yielded`, in the step contract's order."""
    names = (
        (YIELDED_PLAUSIBILITY, "plausibility"),
        (YIELDED_MIN_TOKENS, "min_tokens"),
        (YIELDED_REPEATS, "no_repeat_ngram"),
        (YIELDED_BANS, "banned_strings"),
    )
    return tuple(name for bit, name in names if bits & bit)
