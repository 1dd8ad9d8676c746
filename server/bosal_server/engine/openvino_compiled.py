"""A converted model made ready for this machine: paged attention, a type of arithmetic, threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bosal_server.engine.openvino_cascade import cascade
from bosal_server.engine.openvino_convert import Conversion
from bosal_server.engine.openvino_int8 import round_weights
from bosal_server.engine.openvino_runtime import OpenVinoRefused, load_openvino
from bosal_server.engine.openvino_trace import PagedLayer

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
# Inputs of the paged attention operation: how many, and which is the window.
_NUM_INPUTS, _WINDOW_INPUT = 28, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledGraph:
    """What runners of one model share: each brings an infer request and blocks of its own."""

    compiled: Any
    dtype: str
    # Whether it has the inputs of a shared prefix, and heads one wider.
    cascades: bool = False
    # Constants of a graph that was never on disk belong to the torch model.
    owner: object = None


def compile_graph(
    conversion: Conversion,
    *,
    dtype: str = "float32",
    weights: str = "model",
    kv_cache: str = "model",
    cascade_attention: bool = False,
    threads: int | None = None,
) -> CompiledGraph:
    """Compile for a type of arithmetic; `weights` int8 and `kv_cache` u8 trade exactness.

    With `cascade_attention` sequences attend to a prefix they share once for all of them.

    Raises:
        OpenVinoRefused: attention cannot be paged, or not be a cascade, or the type would round
            positions.
    """
    openvino = load_openvino()
    graph = conversion.graph if weights == "model" else round_weights(conversion.graph)
    graph = _page(openvino, graph, conversion.layers)
    if cascade_attention:
        _require_cascade(conversion.layers, dtype, kv_cache)
        cascade(graph, conversion.layers)
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Pinned workers would keep their cores from the engine's and the service's threads.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
        "KV_CACHE_PRECISION": _PRECISIONS[dtype] if kv_cache == "model" else kv_cache,
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1]
        raise OpenVinoRefused(f"its graph does not compile: {cause}") from None
    if _rounds_positions(compiled):
        raise OpenVinoRefused(f"{dtype} would round what it computes from positions")
    return CompiledGraph(
        compiled=compiled, dtype=dtype, cascades=cascade_attention, owner=conversion.owner
    )


def _require_cascade(layers: Sequence[PagedLayer], dtype: str, kv_cache: str) -> None:
    """Refuse what would round the scores that are put together, and windows inside a prefix."""
    if dtype != "float32" or kv_cache != "model":
        precision = dtype if kv_cache == "model" else f"a {kv_cache} key-value cache"
        raise OpenVinoRefused(f"cascade attention needs float32 keys and values, not {precision}")
    if any(layer.sliding_window is not None for layer in layers):
        raise OpenVinoRefused("cascade attention does not know its sliding windows")


def _page(openvino: Any, graph: Any, layers: Sequence[PagedLayer]) -> Any:
    """Replace attention over the state by paged attention, each layer with its window."""
    from openvino import opset13 as op
    from openvino._offline_transformations import paged_attention_transformation

    graph = graph.clone()
    try:
        paged_attention_transformation(graph)
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1]
        raise OpenVinoRefused(f"its attention cannot be paged: {cause}") from None
    paged = [node for node in graph.get_ops() if node.get_type_name() == "PagedAttentionExtension"]
    by_layer = {
        int(node.input_value(3).get_any_name().removeprefix("key_cache.")): node for node in paged
    }
    if sorted(by_layer) != list(range(len(layers))):
        raise OpenVinoRefused(f"{len(paged)} of its {len(layers)} attention layers could be paged")
    for index, layer in enumerate(layers):
        if layer.sliding_window is None:
            continue
        if by_layer[index].get_input_size() != _NUM_INPUTS:
            raise OpenVinoRefused("this version of it takes sliding windows in another way")
        window = op.constant(np.array(layer.sliding_window, np.int32))
        by_layer[index].input(_WINDOW_INPUT).replace_source_output(window.output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def _rounds_positions(compiled: Any) -> bool:
    """Say whether sines and cosines of positions come from numbers rounded to bfloat16.

    Those have eight bits, so that neighbouring positions beyond 256 would be one.
    """
    for node in compiled.get_runtime_model().get_ops():
        if _runtime_info(node, "layerType") == "Math":
            sources = _sources(node)
            names = {source.get_friendly_name() for source in sources}
            is_of_positions = "position_ids" in names and "input_ids" not in names
            precisions = [_runtime_info(source, "outputPrecisions") for source in sources]
            if is_of_positions and any("bf16" in precision for precision in precisions):
                return True
    return False


def _sources(node: Any) -> list[Any]:
    """Return all that a node is computed from."""
    found: dict[str, Any] = {}
    waiting = [value.get_node() for value in node.input_values()]
    while waiting:
        source = waiting.pop()
        if source.get_friendly_name() not in found:
            found[source.get_friendly_name()] = source
            waiting += [value.get_node() for value in source.input_values()]
    return list(found.values())


def _runtime_info(node: Any, key: str) -> str:
    text: str = node.get_rt_info()[key].astype(str)
    return text
