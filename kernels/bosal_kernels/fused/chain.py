"""A row's truncation stages, in the recipe's order."""

import triton
import triton.language as tl

from bosal_kernels.fused.cut import cut_at
from bosal_kernels.fused.interval import LAST_TOKEN, raised
from bosal_kernels.fused.masses import kept_masses
from bosal_kernels.fused.noise import coin
from bosal_kernels.fused.numbers import LARGEST_INVERSE, MAX_STAGES, STAGE_PLACES
from bosal_kernels.fused.rows import LEAST_KEY, key_of, list_groups
from bosal_kernels.fused.thresholds import last_choice, share_floor
from bosal_kernels.fused.tile_stats import sigma_floor
from bosal_kernels.params import Stage

_TEMPERATURE = tl.constexpr(int(Stage.TEMPERATURE))
_TOP_K = tl.constexpr(int(Stage.TOP_K))
_TOP_P = tl.constexpr(int(Stage.TOP_P))
_MIN_P = tl.constexpr(int(Stage.MIN_P))
_TYPICAL = tl.constexpr(int(Stage.TYPICAL))
_TOP_N_SIGMA = tl.constexpr(int(Stage.TOP_N_SIGMA))
_EPSILON = tl.constexpr(int(Stage.EPSILON))
_ETA = tl.constexpr(int(Stage.ETA))
_XTC = tl.constexpr(int(Stage.XTC))


@triton.jit
def asks_mass(stage):
    """Say whether a stage needs what an earlier one left, beyond its end."""
    is_indifferent = (stage <= _TOP_K) | (stage == _MIN_P) | (stage == _TOP_N_SIGMA)
    return is_indifferent == 0


@triton.jit
def chain_kind(chain, slot, floor, MOMENTS: tl.constexpr, PLAUSIBLE: tl.constexpr):
    """Say whether a slot's chain is for the torch path, and whether it is greedy."""
    chain_stage, chain_value, _second = chain
    place = tl.arange(0, STAGE_PLACES)
    stages = tl.load(chain_stage + slot * MAX_STAGES + place, mask=place < MAX_STAGES, other=0).to(
        tl.int32
    )
    values = tl.load(chain_value + slot * MAX_STAGES + place, mask=place < MAX_STAGES, other=0.0)
    is_strange = (stages == _TYPICAL) | (stages > _XTC)
    if MOMENTS == 0:
        is_strange = is_strange | (stages == _TOP_N_SIGMA)
    if PLAUSIBLE:
        # The deviation was summed over tokens that are no longer there.
        is_strange = is_strange | (
            tl.where(stages == _TOP_N_SIGMA, floor, float("-inf")) > float("-inf")
        )
    is_cold = (stages == _TEMPERATURE) & (values <= 0.0)
    return tl.max(tl.where(is_strange, 1, 0), 0), tl.max(tl.where(is_cold, 1, 0), 0)


@triton.jit
def truncate(
    chain,
    slot,
    noise_key,
    here,
    keys,
    listed,
    aside,
    view,
    out,
    is_tile,
    row_max,
    first_token,
    heat,
    row_mass,
    row_moment,
    are_moments_known,
    num_groups,
    GROUPS: tl.constexpr,
    STREAMS: tl.constexpr,
    LEGAL: tl.constexpr,
):
    """Return what a slot's chain keeps of a row, its first token, 1 / T, what is left to the draw.

    The kept are (low, low_token, high, high_token). Left is a last top-p, (target, 1 / T): a token
    stays if the mass before it, at that 1 / T, is less than the target; without one that is inf.
    Last come (members, num_best): how many members are set aside, -1 where the kept are more,
    and of how many of the first it is known that no other token comes before them.
    """
    chain_stage, chain_value, chain_second = chain
    place = tl.arange(0, STAGE_PLACES)
    stages = tl.load(chain_stage + slot * MAX_STAGES + place, mask=place < MAX_STAGES, other=0).to(
        tl.int32
    )
    is_open = keys > LEAST_KEY
    first = row_max
    low = tl.full((), float("-inf"), tl.float32)
    low_token = tl.full((), -1, tl.int32)
    high = tl.full((), float("inf"), tl.float32)
    high_token = tl.full((), -1, tl.int32)
    scale = tl.full((), 1.0, tl.float32)
    mass = row_mass
    moment = row_moment
    # Whether they are those of the interval at its temperature.
    is_mass_known = tl.where(heat == 1.0, 1, 0)
    is_moment_known = is_mass_known * are_moments_known
    lazy_target = tl.full((), float("inf"), tl.float64)
    lazy_scale = tl.full((), 1.0, tl.float32)
    members = tl.full((), -1, tl.int32)
    num_best = tl.full((), 0, tl.int32)
    for step in range(tl.max(tl.where(stages != 0, place + 1, 0), 0)):
        stage = tl.load(chain_stage + slot * MAX_STAGES + step).to(tl.int32)
        value = tl.load(chain_value + slot * MAX_STAGES + step)
        second = tl.load(chain_second + slot * MAX_STAGES + step)
        is_later = tl.where((place > step) & asks_mass(stages), 1, 0)
        asks_later = tl.max(is_later, 0)
        # Which stages do anything, and what they need.
        is_top_k = (stage == _TOP_K) & (value >= 1.0) & (value < view[2])
        is_top_p = (stage == _TOP_P) & (value < 1.0)
        is_min_p = (stage == _MIN_P) & (value > 0.0)
        is_sigma = (stage == _TOP_N_SIGMA) & (value >= 0.0)
        is_share = (value > 0.0) & (value < 1.0)
        is_epsilon = (stage == _EPSILON) & is_share
        is_eta = (stage == _ETA) & is_share
        is_xtc = stage == _XTC
        if is_xtc:
            is_xtc = coin(noise_key, here) < value
        if stage == _TEMPERATURE:
            scale = tl.minimum(1.0 / value, LARGEST_INVERSE).to(tl.float32)
            is_whole = (low == float("-inf")) & (high == float("inf"))
            is_mass_known = tl.where(is_whole & (scale == heat), 1, 0)
            mass = tl.where(is_mass_known != 0, row_mass, mass)
            is_moment_known = is_mass_known * are_moments_known
            moment = tl.where(is_moment_known != 0, row_moment, moment)
        is_cut = high < float("inf")
        offset = tl.where(is_cut, (first - row_max) * scale, 0.0)
        needs = is_top_p | is_epsilon | is_xtc
        kept = (low, low_token, high, high_token)
        is_stale = (needs & (is_mass_known == 0)) | (is_eta & (is_moment_known == 0))
        if is_stale:
            chosen = is_open & (keys >= key_of(low))
            mass, moment = kept_masses(
                members, aside, chosen, listed, view, kept, row_max, scale, offset, is_eta,
                GROUPS, STREAMS, LEGAL,
            )  # fmt: skip
            is_mass_known = tl.full((), 1, tl.int32)
            is_moment_known = tl.where(is_eta, 1, 0)
        floor = tl.full((), float("-inf"), tl.float32)
        if is_min_p | is_epsilon | is_eta | is_xtc:
            floor = share_floor(
                is_min_p, is_eta, is_xtc, value, second, mass, moment, offset, row_max, scale
            )
        if is_sigma:
            floor = sigma_floor(out, is_tile, row_max, value)
        if is_min_p | is_epsilon | is_eta | is_sigma:
            low, low_token = raised(low, low_token, floor, LAST_TOKEN, first, first_token)
            is_mass_known = tl.full((), 0, tl.int32)
            is_moment_known = tl.full((), 0, tl.int32)
        if is_xtc:
            chosen = is_open & (keys >= key_of(tl.maximum(low, floor)))
            count = list_groups(chosen, listed, GROUPS)
            choices, end, end_token = last_choice(listed, count, view, kept, floor, STREAMS, LEGAL)
            if choices >= 2:
                high, high_token, first, first_token = end, end_token, end, end_token
                is_mass_known = tl.full((), 0, tl.int32)
                is_moment_known = tl.full((), 0, tl.int32)
        if is_top_p & (asks_later == 0):
            lazy_target = value * mass
            lazy_scale = scale
        is_resolved = is_top_p & (asks_later != 0)
        if is_top_k | is_resolved:
            edge, edge_token, members, num_best = cut_at(
                is_resolved, value, mass, members, num_best, keys, listed, aside, view, kept, first,
                first_token, row_max, scale, offset, num_groups, GROUPS, STREAMS, LEGAL,
            )  # fmt: skip
            low, low_token = raised(low, low_token, edge, edge_token, first, first_token)
            is_mass_known = tl.full((), 0, tl.int32)
            is_moment_known = tl.full((), 0, tl.int32)
    kept = (low, low_token, high, high_token)
    return kept, first, first_token, scale, (lazy_target, lazy_scale), (members, num_best)
