"""What the kernels of a step are compiled for: few builds, each of which serves many steps.

A build that can do more than a step asks draws the same tokens: what a row does not ask for is off
in its slot. So a server compiles these few before it serves, and none for want of a feature later.
"""

from dataclasses import astuple, dataclass
from typing import Final

from bosal_kernels.fusible import MAX_FUSED_STREAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What one build can do, or what a step asks of it."""

    max_depth: int = 1  # streams of a group
    is_normed: bool = False  # sums of log-probabilities
    is_legal: bool = False  # masks
    looks_back: bool = False  # rules over the history
    has_reports: bool = False  # log-probabilities
    is_plausible: bool = False
    has_moments: bool = False  # top-n-sigma, eta

    def covers(self, asked: "Build") -> bool:
        """Whether it can do all that is asked."""
        pairs = zip(astuple(self), astuple(asked), strict=True)
        return all(can >= wants for can, wants in pairs)


EVERYTHING: Final = Build(
    max_depth=MAX_FUSED_STREAMS,
    is_normed=True,
    is_legal=True,
    looks_back=True,
    has_reports=True,
    is_plausible=True,
    has_moments=True,
)
# From cheap to dear: a step takes the first that covers it.
BUILDS: Final = (
    Build(),
    Build(is_legal=True),
    Build(is_legal=True, looks_back=True),
    Build(is_legal=True, has_reports=True),
    Build(is_legal=True, looks_back=True, has_reports=True),
    Build(is_legal=True, looks_back=True, has_reports=True, has_moments=True),
    Build(max_depth=2, is_normed=True, is_legal=True),
    Build(max_depth=2, is_normed=True, is_legal=True, looks_back=True),
    Build(max_depth=3, is_normed=True, is_legal=True),
    EVERYTHING,
)


def build_for(asked: Build) -> Build:
    """Return the cheapest build that covers a step."""
    return next(one for one in BUILDS if one.covers(asked))
