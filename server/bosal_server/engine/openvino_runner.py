"""Runs a converted model on a CPU: OpenVINO's paged attention under the engine's block tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bosal_server.engine.openvino_convert import Conversion, PagedLayer
from bosal_server.engine.openvino_runtime import OpenVinoRefused, load_openvino
from bosal_server.engine.step import StepPlan

BLOCK_SIZE = 32

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
_WINDOW_INPUT = 10  # of the paged attention operation


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
        cache_dtype: str | None = None,
        threads: int | None = None,
    ) -> None:
        openvino = load_openvino()
        self._dtype = dtype
        self._num_blocks = num_blocks
        graph = _page(openvino, conversion)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # Pinned workers would keep their cores from the engine's and the service's threads.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "KV_CACHE_PRECISION": _PRECISIONS[dtype] if cache_dtype is None else cache_dtype,
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = openvino.Core().compile_model(graph, "CPU", settings)
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[-1]
            raise OpenVinoRefused(f"its graph does not compile: {cause}") from None
        # Constants of a graph that was never on disk belong to the torch model.
        self._owner = conversion.owner
        self._request: Any = compiled.create_infer_request()
        self._pool = _allocate(openvino, compiled, self._request, num_blocks)
        indices = {port.get_any_name(): i for i, port in enumerate(compiled.inputs)}
        self._inputs = [indices.get(name, -1) for name in _STEP_INPUTS]
        self._vocab_size = int(compiled.outputs[0].get_partial_shape()[-1].get_length())
        self._tensor = openvino.Tensor
        # The plain method: the Python wrapper above it copies inputs and outputs.
        self._infer = super(type(self._request), self._request).infer
        self._first_row = np.zeros(1, np.int64)

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
        rows = plan.logits_rows
        arrays = (
            plan.input_ids,
            plan.positions,
            plan.past_lens,
            plan.subsequence_begins,
            plan.block_indices,
            plan.block_indices_begins,
            np.array(plan.max_context_len, np.int32),
            # The head is never computed for no row at all.
            rows if len(rows) else self._first_row,
        )
        tensor = self._tensor
        # Step plans are contiguous and outlive the call, so their memory is shared.
        inputs = {
            index: tensor(array, True)
            for index, array in zip(self._inputs, arrays, strict=True)
            if index >= 0
        }
        output = next(iter(self._infer(inputs, True, False).values()))
        logits = torch.from_numpy(output)
        return logits if len(rows) else logits[:0]

    def close(self) -> None:
        self._pool = []
        self._request = self._infer = None
        self._owner = None


_STEP_INPUTS = (
    "input_ids",
    "position_ids",
    "past_lens",
    "subsequence_begins",
    "block_indices",
    "block_indices_begins",
    "max_context_len",
    "logits_rows",
)


def _page(openvino: Any, conversion: Conversion) -> Any:
    """Replace attention over the state by paged attention, each layer with its window."""
    from openvino import opset13 as op
    from openvino._offline_transformations import paged_attention_transformation

    graph = conversion.graph.clone()
    try:
        paged_attention_transformation(graph)
    except RuntimeError as error:
        cause = str(error).strip().splitlines()[-1]
        raise OpenVinoRefused(f"its attention cannot be paged: {cause}") from None
    paged = [node for node in graph.get_ops() if node.get_type_name() == "PagedAttentionExtension"]
    by_layer = {
        int(node.input_value(3).get_any_name().removeprefix("key_cache.")): node for node in paged
    }
    if sorted(by_layer) != list(range(len(conversion.layers))):
        raise OpenVinoRefused(
            f"{len(paged)} of its {len(conversion.layers)} attention layers could be paged"
        )
    for index, layer in enumerate(conversion.layers):
        window = op.constant(np.array(layer.sliding_window or 0, np.int32))
        by_layer[index].input(_WINDOW_INPUT).replace_source_output(window.output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def _allocate(openvino: Any, compiled: Any, request: Any, num_blocks: int) -> list[Any]:
    """Give the request its key and value blocks, all zero; return what must be kept alive."""
    pool = []
    for port in compiled.inputs:
        name = port.get_any_name()
        if name.startswith(("key_cache.", "value_cache.")):
            shape = port.get_partial_shape()
            dims = [num_blocks, *(shape[i].get_length() for i in range(1, len(shape)))]
            element = port.get_element_type()
            memory = np.zeros((*dims[:-1], dims[-1] * element.size), np.uint8)
            tensor = openvino.Tensor(memory, dims, element)
            request.set_tensor(name, tensor)
            pool.append((memory, tensor))
    return pool


def bytes_per_token(layers: Sequence[PagedLayer], cache_dtype: str) -> int:
    itemsize = {"float32": 4, "bfloat16": 2, "u8": 1}[cache_dtype]
    return sum(2 * layer.num_kv_heads * layer.head_dim * itemsize for layer in layers)
