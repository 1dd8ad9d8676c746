"""Runs a converted model on a CPU: OpenVINO's paged attention under the engine's block tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bosal_server.engine.kv_pool import LayerShape
from bosal_server.engine.openvino_cascade_inputs import MIN_SPARED, CascadeInputs
from bosal_server.engine.openvino_compiled import CompiledGraph
from bosal_server.engine.openvino_prefault import Prefault
from bosal_server.engine.openvino_runtime import BLOCK_SIZE, load_openvino
from bosal_server.engine.openvino_trace import PagedLayer
from bosal_server.engine.step import StepPlan

ITEM_SIZES = {"float32": 4, "bfloat16": 2}


class OpenVinoRunner:
    """One infer request of a compiled model, and the blocks it writes into.

    The logits that `forward` returns are the request's own output: the next `forward` overwrites
    them. Until then the caller may change them in place.
    """

    kind = "openvino"
    device = "cpu"
    block_size = BLOCK_SIZE

    def __init__(
        self, graph: CompiledGraph, *, num_blocks: int, min_spared: int = MIN_SPARED
    ) -> None:
        """`min_spared`: blocks a step need not read again from which on a shared prefix pays."""
        openvino = load_openvino()
        compiled = graph.compiled
        self._graph: CompiledGraph | None = graph
        self._dtype = graph.dtype
        self._request: Any = compiled.create_infer_request()
        self._num_blocks = num_blocks
        # The last block is the stand-in for a shared prefix.
        self._pool = _allocate(self._request, num_blocks + graph.cascades)
        self._prefault = Prefault([memory for memory, _ in self._pool.values()])
        self._cascade: CascadeInputs | None = None
        if graph.cascades:
            caches = {name: memory.view(np.float32) for name, (memory, _) in self._pool.items()}
            self._cascade = CascadeInputs(self._request, caches, min_spared)
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
        paged = plan if self._cascade is None else self._cascade.write(plan)
        self._inputs.write(paged)
        if not self._prefault.is_complete:
            self._prefault.reach(int(plan.block_indices.max(initial=0)))
        output = next(iter(self._infer(self._request, {}, True, False).values()))
        return torch.from_numpy(output)[: len(plan.logits_rows)]

    def close(self) -> None:
        self._prefault.close()
        self._cascade = None
        self._pool = {}
        self._request = self._inputs = None
        self._graph = None


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


def _allocate(request: Any, num_blocks: int) -> dict[str, tuple[Any, Any]]:
    """Give the request its key and value blocks, all zero; return their memory and tensors."""
    tensor_type = load_openvino().Tensor
    pool = {}
    for port in request.model_inputs:
        name = port.get_any_name()
        if name.startswith(("key_cache.", "value_cache.")):
            shape = port.get_partial_shape()
            dims = [num_blocks, *(shape[i].get_length() for i in range(1, len(shape)))]
            element = port.get_element_type()
            memory = np.zeros((*dims[:-1], dims[-1] * element.size), np.uint8)
            tensor = tensor_type(memory, dims, element)
            request.set_tensor(name, tensor)
            pool[name] = (memory, tensor)
    return pool


def bytes_per_token(
    layers: Sequence[LayerShape | PagedLayer],
    dtype: str,
    *,
    kv_cache: str = "model",
    cascades: bool = False,
) -> int:
    # With eight bits every head of a token has a scale and a zero point in float32.
    size, extra = (ITEM_SIZES[dtype], 0) if kv_cache == "model" else (1, 8)
    widths = [layer.head_dim + cascades for layer in layers]
    heads = [2 * layer.num_kv_heads for layer in layers]
    return sum(count * (width * size + extra) for count, width in zip(heads, widths, strict=True))
