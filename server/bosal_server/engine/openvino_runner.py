"""Runs a converted model on a CPU: OpenVINO's paged attention under the engine's block tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bosal_server.engine.kv_pool import LayerShape
from bosal_server.engine.openvino_convert import Conversion
from bosal_server.engine.openvino_int8 import round_weights
from bosal_server.engine.openvino_runtime import OpenVinoRefused, load_openvino
from bosal_server.engine.openvino_trace import PagedLayer
from bosal_server.engine.step import StepPlan

BLOCK_SIZE = 32

ITEM_SIZES = {"float32": 4, "bfloat16": 2}
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
# Inputs of the paged attention operation: how many, and which is the window.
_NUM_INPUTS, _WINDOW_INPUT = 28, 10


class OpenVinoRunner:
    """One compiled model, one infer request, and the blocks it writes into.

    The logits that `forward` returns are the request's own output: the next `forward` overwrites
    them. Until then the caller may change them in place.
    """

    kind = "openvino"
    device = "cpu"
    block_size = BLOCK_SIZE

    def __init__(
        self,
        conversion: Conversion,
        *,
        num_blocks: int,
        dtype: str = "float32",
        weights: str = "model",
        cache: str = "model",
        threads: int | None = None,
    ) -> None:
        """Compile for a type of arithmetic; `weights` int8 and `cache` u8 trade exactness."""
        openvino = load_openvino()
        self._dtype = dtype
        graph = conversion.graph if weights == "model" else round_weights(conversion.graph)
        graph = _page(openvino, graph, conversion.layers)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Pinned workers would keep their cores from the engine's and the service's threads.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "KV_CACHE_PRECISION": _PRECISIONS[dtype] if cache == "model" else cache,
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
        # Constants of a graph that was never on disk belong to the torch model.
        self._owner = conversion.owner
        self._request: Any = compiled.create_infer_request()
        self._pool: list[Any] = []
        self.resize(num_blocks)
        self._inputs: Any = _StepInputs(openvino, compiled, self._request)
        self._vocab_size = int(compiled.outputs[0].get_partial_shape()[-1].get_length())
        # Not the method of the Python class above it, which copies inputs and outputs.
        self._infer = openvino._pyopenvino.InferRequest.infer

    @property
    def dtype(self) -> str:
        return self._dtype

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    def forward(self, plan: StepPlan) -> Tensor:
        self._inputs.write(plan)
        output = next(iter(self._infer(self._request, {}, True, False).values()))
        return torch.from_numpy(output)[: len(plan.logits_rows)]

    def resize(self, num_blocks: int) -> None:
        """Take this many blocks instead, all empty."""
        self._pool = []
        self._num_blocks = num_blocks
        self._pool = _allocate(self._request, num_blocks)

    def close(self) -> None:
        self._pool = []
        self._request = self._inputs = None
        self._owner = None


class _StepInputs:
    """The request's inputs: one buffer each, replaced only when a step has another shape."""

    def __init__(self, openvino: Any, compiled: Any, request: Any) -> None:
        self._request = request
        self._tensor = openvino.Tensor
        # A model without position embeddings has no such input.
        self._indices = {port.get_any_name(): i for i, port in enumerate(compiled.inputs)}
        self._buffers: dict[str, np.ndarray[Any, Any]] = {}

    def write(self, plan: StepPlan) -> None:
        rows = plan.logits_rows
        self._put("input_ids", plan.input_ids)
        self._put("position_ids", plan.positions)
        self._put("past_lens", plan.past_lens)
        self._put("subsequence_begins", plan.subsequence_begins)
        self._put("block_indices", plan.block_indices)
        self._put("block_indices_begins", plan.block_indices_begins)
        self._put("max_context_len", np.array(plan.max_context_len, np.int32))
        # The head always computes a row: some operations do not take an empty one.
        self._put("logits_rows", rows if len(rows) else np.zeros(1, np.int64))

    def _put(self, name: str, array: np.ndarray[Any, Any]) -> None:
        buffer = self._buffers.get(name)
        if buffer is not None and buffer.shape == array.shape:
            buffer[...] = array
        elif name in self._indices:
            self._buffers[name] = array.copy()
            tensor = self._tensor(self._buffers[name], True)
            self._request.set_input_tensor(self._indices[name], tensor)


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


def _allocate(request: Any, num_blocks: int) -> list[Any]:
    """Give the request its key and value blocks, all zero; return what must be kept alive."""
    tensor_type = load_openvino().Tensor
    pool = []
    for port in request.model_inputs:
        name = port.get_any_name()
        if name.startswith(("key_cache.", "value_cache.")):
            shape = port.get_partial_shape()
            dims = [num_blocks, *(shape[i].get_length() for i in range(1, len(shape)))]
            element = port.get_element_type()
            memory = np.zeros((*dims[:-1], dims[-1] * element.size), np.uint8)
            tensor = tensor_type(memory, dims, element)
            request.set_tensor(name, tensor)
            pool.append((memory, tensor))
    return pool


def bytes_per_token(layers: Sequence[LayerShape | PagedLayer], dtype: str) -> int:
    return sum(2 * layer.num_kv_heads * layer.head_dim for layer in layers) * ITEM_SIZES[dtype]
