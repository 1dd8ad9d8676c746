"""Every configuration of the Triton kernels that is compiled ahead of time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.ahead import Source
from bosal_kernels import bitmask_apply
from bosal_kernels.fused import (
    control_reduce,
    gumbel_topk,
    history_scan,
    lanes,
    row_logprobs,
    row_tiles,
    select,
    stream_masses,
    tile_stats,
)
from bosal_kernels.fused.control_reduce_kernel import control_reduce_kernel
from bosal_kernels.fused.select_kernel import select_kernel

# Vocabulary of the shape whose floors are given, and of its padded row.
VOCABULARY: Final = 128_256
# Its tiles of 4,096 tokens, a power of two.
TILES: Final = 32
# Types of arguments that are no rows of logits, by name.
_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "maxima", "raw_maxima", "listed", "legal_rows", "legal_bits", "touched_bits", "bits",
            "t_tok", "t_out_count", "t_flag", "t_pos", "runs", "ban_index", "depths", "status",
            "history", "run",
        ),
        "*i32",
    ),
    **dict.fromkeys(
        (
            "rows", "tokens", "keys", "positions", "found", "ranks", "top_ids", "base", "slots",
            "position", "eos_ramp_over", "eos_decay_start", "min_tokens", "dry_allowed", "n_touch",
            "n_ban", "ban_position", "chain_stage", "over", "after", "until", "region", "space",
            "key", "forced", "raw_ranks", "raw_top_ids", "wanted", "length", "unbroken",
            "ngram", "dry_window", "aside",
        ),
        "*i64",
    ),
    **dict.fromkeys(
        (
            "stats", "logprobs", "normalizers", "masses", "top_logprobs", "t_delta", "shaped",
            "repetition", "presence", "frequency", "used_weight", "eos_ramp_weight",
            "dry_multiplier", "inverse", "raw_logprobs", "raw_top_logprobs",
            "log_plausibility",
        ),
        "*fp32",
    ),
    **dict.fromkeys(
        (
            "eos_decay_factor", "dry_base", "chain_value", "chain_second", "last_temperature",
            "weights", "slopes", "strength", "final_strength",
        ),
        "*fp64",
    ),
    "repeats": "*i8",
    **dict.fromkeys(("eos_ramp_waits", "at_sentence_end", "in_constraint", "breaks"), "*i1"),
}  # fmt: skip


def source(
    kernel: Any, dtype: str, num_warps: int, constants: Mapping[str, int | bool], *aligned: str
) -> Source:
    """Return a configuration over rows of one type; what is no pointer is a 32-bit number."""
    types = {
        name: f"*{dtype}" if name in ("logits", "streams") else _TYPES.get(name, "i32")
        for name in kernel.arg_names
        if name not in constants
    }
    return Source(
        kernel=kernel, types=types, constants=constants, num_warps=num_warps, aligned=aligned
    )


def control_source(dtype: str, **features: int | bool) -> Source:
    """Return the reduction with some features; what is not named is off."""
    constants = {
        "STREAMS": 1, "NORMED": False, "LEGAL": False, "HISTORY": False, "RAW": False,
        "MOMENTS": False, "TILES": TILES, "BLOCK": lanes.BLOCK, "LANES": lanes.LANES,
        "LIST_BLOCK": control_reduce.LIST_BLOCK, "NUM_STATS": tile_stats.NUM_STATS,
    } | features  # fmt: skip
    return source(
        control_reduce_kernel,
        dtype,
        lanes.NUM_WARPS,
        constants,
        "row_stride",
    )


def select_source(dtype: str, **features: int | bool) -> Source:
    """Return the selection with some features; what is not named is off."""
    num_groups = VOCABULARY // 64
    constants = {
        "STREAMS": 1, "NORMED": False, "LEGAL": False, "PLAUSIBLE": False, "MOMENTS": False,
        "FORCED": False, "LOGPROBS": False, "COMMIT": False, "TILES": TILES,
        "GROUPS": 1 << (num_groups - 1).bit_length(), "STATS": 512,
        "NUM_STATS": tile_stats.NUM_STATS,
    } | features  # fmt: skip
    return source(select_kernel, dtype, select.NUM_WARPS, constants, "row_stride")


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A kernel with some features on, over rows of one type."""

    name: str
    dtype: str
    source: Source
    # Of kernels that stream rows: tokens a thread handles, bytes moved for a token.
    elements_per_thread: int = 0
    bytes_per_element: float | None = None


# The reduction's features by scenario, and how many bits a token streams beside its logits.
_SCENARIOS: Final[Mapping[str, tuple[dict[str, int | bool], int]]] = {
    "control_reduce": ({}, 1),
    "control_reduce_legal": ({"LEGAL": True}, 2),
    "control_reduce_raw": ({"RAW": True}, 1),
    "control_reduce_guidance": ({"STREAMS": 2, "NORMED": True}, 1),
    "control_reduce_proxy": ({"STREAMS": 3}, 1),
    "control_reduce_all": ({"LEGAL": True, "RAW": True, "HISTORY": True}, 2),
    "control_reduce_all_moments": (
        {"LEGAL": True, "RAW": True, "HISTORY": True, "MOMENTS": True},
        2,
    ),
}


def configurations(*, is_quick: bool) -> list[tuple[Configuration, int]]:
    """Return what is compiled, and for which compute capabilities.

    Quick is every kernel once with all that it can, and those that compile fast in every way.
    """
    found = []
    for dtype in ("bf16", "fp16", "fp32"):
        width = 4 if dtype == "fp32" else 2
        for arch in (80, 90):
            is_first = (dtype, arch) == ("bf16", 90)
            # Rows of float16 are read like those of bfloat16.
            is_chosen = is_first or not (is_quick or dtype == "fp16")
            row_kernels = _row_kernels(dtype, width)
            found += [(one, arch) for one in row_kernels if is_chosen or one.elements_per_thread]
            for name, (features, bits) in _SCENARIOS.items():
                if is_chosen and (not is_quick or name == "control_reduce_all_moments"):
                    found.append((_reduction(name, dtype, width, features, bits), arch))
            if is_chosen:
                one = Configuration(name="select", dtype=dtype, source=select_source(dtype))
                found.append((one, arch))
            if is_first and not is_quick:
                everything = {
                    "STREAMS": 3, "NORMED": True, "LEGAL": True, "PLAUSIBLE": True,
                    "MOMENTS": True, "FORCED": True, "LOGPROBS": True, "COMMIT": True,
                }  # fmt: skip
                whole = select_source(dtype, **everything)
                found.append((Configuration(name="select_all", dtype=dtype, source=whole), arch))
    return found


def _reduction(
    name: str, dtype: str, width: int, features: dict[str, int | bool], bits: int
) -> Configuration:
    maxima = (2 if features.get("RAW") else 1) * 4 / 64
    return Configuration(
        name=name,
        dtype=dtype,
        source=control_source(dtype, **features),
        elements_per_thread=lanes.BLOCK // (32 * lanes.NUM_WARPS),
        bytes_per_element=width * features.get("STREAMS", 1) + bits / 8 + maxima,
    )


def _row_kernels(dtype: str, width: int) -> list[Configuration]:
    """Return the kernels that stand alone."""
    groups = 1 << (VOCABULARY // 64 - 1).bit_length()
    tiles = {"TILES": TILES, "GROUPS": groups, "NUM_STATS": row_tiles.NUM_STATS}
    mask = source(
        bitmask_apply.bitmask_apply_kernel,
        dtype,
        bitmask_apply.NUM_WARPS,
        {"BLOCK": bitmask_apply.BLOCK},
        "vocab_size",
        "row_stride",
    )
    pass_ = source(
        row_tiles.row_tiles_kernel,
        dtype,
        row_tiles.NUM_WARPS,
        {"BLOCK": row_tiles.BLOCK, "GROUPED": True, "NUM_STATS": row_tiles.NUM_STATS},
        "row_stride",
    )
    masses = source(
        stream_masses.stream_masses_kernel,
        dtype,
        lanes.NUM_WARPS,
        {"STREAMS": 2, "BLOCK": lanes.BLOCK, "LANES": lanes.LANES},
        "row_stride",
    )
    best = source(
        row_logprobs.row_logprobs_kernel, dtype, row_logprobs.NUM_WARPS, {**tiles, "TOP": True}
    )
    draws = source(gumbel_topk.gumbel_topk_kernel, dtype, gumbel_topk.NUM_WARPS, tiles)
    scan = source(
        history_scan.history_scan_kernel,
        dtype,
        history_scan.NUM_WARPS,
        {"BLOCK": history_scan.BLOCK},
    )
    return [
        Configuration(
            name="bitmask_apply",
            dtype=dtype,
            source=mask,
            elements_per_thread=bitmask_apply.BLOCK // (32 * bitmask_apply.NUM_WARPS),
            bytes_per_element=2 * width + 1 / 8,
        ),
        Configuration(
            name="row_tiles",
            dtype=dtype,
            source=pass_,
            elements_per_thread=row_tiles.BLOCK // (32 * row_tiles.NUM_WARPS),
            bytes_per_element=width + 4 / 64,
        ),
        Configuration(
            name="stream_masses",
            dtype=dtype,
            source=masses,
            elements_per_thread=lanes.BLOCK // (32 * lanes.NUM_WARPS),
            # Of one stream's row; its masses are few.
            bytes_per_element=width,
        ),
        Configuration(name="row_logprobs", dtype=dtype, source=best),
        Configuration(name="gumbel_topk", dtype=dtype, source=draws),
        Configuration(name="history_scan", dtype=dtype, source=scan),
    ]
