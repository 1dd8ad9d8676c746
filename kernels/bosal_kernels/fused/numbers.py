"""Numbers of the layout as kernels see them: each is the torch path's own, or stands here alone."""

import math
from typing import Final

import triton.language as tl

from bosal_kernels import params, scope, streams

# exp(x) is exp2(x LOG2E): devices have the latter.
LOG2E: Final = tl.constexpr(math.log2(math.e))
# Stages of a chain, and as many places as a block of them has.
MAX_STAGES: Final = tl.constexpr(params.MAX_STAGES)
STAGE_PLACES: Final = tl.constexpr(1 << (params.MAX_STAGES - 1).bit_length())
# Columns of a slot's numbers of streams.
MAX_STREAMS: Final = tl.constexpr(streams.MAX_STREAMS)
# No output is so long.
NO_LIMIT: Final = tl.constexpr(scope.NO_LIMIT)
ANYWHERE: Final = tl.constexpr(int(scope.Region.ANY))
INSIDE: Final = tl.constexpr(int(scope.Region.INSIDE))
# The largest inverse temperature: 1 / T of what is nearly 0 stays finite in float32.
LARGEST_INVERSE: Final = tl.constexpr(3e38)
# Stands for -inf where a weight of 0 multiplies it.
FAR: Final = tl.constexpr(-1e30)
