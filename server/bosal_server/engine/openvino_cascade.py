"""Cascade attention: sequences that begin alike attend to what they share as one product.

Paged attention reads a shared block once for each sequence. Here the queries of all of them meet
the prefix as one matrix, paged attention sees only what follows it, and the two parts are put
together by the sums of their softmax (Hydragen, Juravsky et al. 2024; FlashInfer's cascade).

Paged attention does not tell its sums, so it is made to put the parts together. Heads are one
wider than the model's. Where a table held the prefix it holds the stand-in, a block whose keys and
values are 0 but for a 1 at the end; a query ends with the score that makes of these tokens the
prefix's sum. What comes out of a head is the suffix's part as it should be and, at its end, the
weight of the prefix's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bosal_server.engine.openvino_runtime import BLOCK_SIZE
from bosal_server.engine.openvino_trace import PagedLayer

# Places in [T] of the S tokens that attend to the prefix; with none the graph is as it was.
ROWS = "prefix_rows"
# Before the name of a layer's key or value blocks: the prefix in them [kv heads, P, head dim].
COPY_OF = "prefix_"
# Before a number of heads: zeros [T, heads, 1]. Made in the graph, their shape would be known only
# once it runs, and its operations could not be prepared ahead.
ZEROS = "zeros."

# Inputs of the paged attention operation.
_QUERY, _KEY, _VALUE, _KEY_CACHE, _VALUE_CACHE, _SCALE = 0, 1, 2, 3, 4, 9


def cascade(graph: Any, layers: Sequence[PagedLayer]) -> None:
    """Widen the heads of a graph with paged attention, and give it the inputs above, in place."""
    rows = _input([-1], np.int64, ROWS)
    counts = {count for layer in layers for count in (layer.num_heads, layer.num_kv_heads)}
    zeros = {count: _input([-1, count, 1], np.float32, f"{ZEROS}{count}") for count in counts}
    inputs = [rows, *zeros.values()]
    for node in graph.get_ops():
        if node.get_type_name() == "PagedAttentionExtension":
            key_cache, value_cache = (
                node.input_value(i).get_any_name() for i in (_KEY_CACHE, _VALUE_CACHE)
            )
            layer = layers[int(key_cache.removeprefix("key_cache."))]
            dims = [layer.num_kv_heads, -1, layer.head_dim]
            keys = _input(dims, np.float32, COPY_OF + key_cache)
            values = _input(dims, np.float32, COPY_OF + value_cache)
            inputs += [keys, values]
            _Attention(node, layer, rows, zeros).cascade(keys, values)
    graph.add_parameters(inputs)
    graph.validate_nodes_and_infer_types()


def write_stand_in(block: np.ndarray[Any, Any]) -> None:
    """Make of a block of keys or values [kv heads, block size, head dim + 1] the stand-in."""
    block[...] = 0
    block[..., -1] = 1


@dataclass(frozen=True, slots=True)
class _Attention:
    """One layer's paged attention, and the rows of it that attend to the prefix."""

    node: Any
    layer: PagedLayer
    rows: Any
    zeros: Mapping[int, Any]

    def cascade(self, keys: Any, values: Any) -> None:
        from openvino import opset13 as op

        node, layer = self.node, self.layer
        heads, kv_heads, width = layer.num_heads, layer.num_kv_heads, layer.head_dim
        readers = node.output(0).get_target_inputs()
        query = _reshaped(node.input_value(_QUERY), -1, heads, width)
        prefix, score = self._of_prefix(query, keys, values)
        ends = {
            _QUERY: op.scatter_update(self.zeros[heads], self.rows, score, op.constant(0)),
            _KEY: self.zeros[kv_heads],
            _VALUE: self.zeros[kv_heads],
        }
        for place, end in ends.items():
            count = heads if place == _QUERY else kv_heads
            narrow = _reshaped(node.input_value(place), -1, count, width)
            wide = _reshaped(op.concat([narrow, end], axis=2), -1, count * (width + 1))
            node.input(place).replace_source_output(wide.output(0))
        information = node.get_rt_info()
        information["k_head_size"] = information["v_head_size"] = width + 1
        # Rows without a prefix have its weight 0 and are what they were.
        output, weight = _split(_reshaped(node.output(0), -1, heads, width + 1), width, 1)
        whole = op.add(self._chosen(output), op.multiply(prefix, self._chosen(weight)))
        output = op.scatter_update(output, self.rows, whole, op.constant(0))
        output = _reshaped(output, -1, heads * width)
        for reader in readers:
            reader.replace_source_output(output.output(0))

    def _of_prefix(self, query: Any, keys: Any, values: Any) -> tuple[Any, Any]:
        """Return attention to the prefix [S, heads, head dim] and the score [S, heads, 1].

        The score, once scaled, is the logarithm of the sum of the softmax less that of a block's
        size, for so many tokens have it.
        """
        from openvino import opset13 as op

        layer = self.layer
        heads, kv_heads, width = layer.num_heads, layer.num_kv_heads, layer.head_dim
        scale = self.node.input_value(_SCALE)
        scaled = op.multiply(self._chosen(query), scale)
        by_group = _reshaped(scaled, -1, kv_heads, heads // kv_heads, width)
        # All that meets the same keys: [kv heads, S * queries of a group, head dim].
        by_head = _reshaped(_swapped(by_group), kv_heads, -1, width)
        scores = op.matmul(by_head, keys, transpose_a=False, transpose_b=True)
        most = op.reduce_max(scores, _integers(2), keep_dims=True)
        weights = op.exp(op.subtract(scores, most))
        total = op.reduce_sum(weights, _integers(2), keep_dims=True)
        output = op.divide(op.matmul(weights, values, transpose_a=False, transpose_b=False), total)
        log_sum = op.add(most, op.log(total))
        score = op.divide(op.subtract(log_sum, op.constant(np.float32(np.log(BLOCK_SIZE)))), scale)
        both = op.concat([output, score], axis=2)
        both = _swapped(_reshaped(both, kv_heads, -1, heads // kv_heads, width + 1))
        return _split(_reshaped(both, -1, heads, width + 1), width, 1)

    def _chosen(self, value: Any) -> Any:
        from openvino import opset13 as op

        return op.gather(value, self.rows, op.constant(0))


def _input(shape: list[int], dtype: type, name: str) -> Any:
    from openvino import opset13 as op

    parameter = op.parameter(shape, dtype, name=name)
    parameter.output(0).get_tensor().set_names({name})
    return parameter


def _integers(*numbers: int) -> Any:
    from openvino import opset13 as op

    return op.constant(np.array(numbers, np.int64))


def _reshaped(value: Any, *shape: int) -> Any:
    from openvino import opset13 as op

    return op.reshape(value, _integers(*shape), special_zero=False)


def _swapped(value: Any) -> Any:
    """Swap the first two of four axes."""
    from openvino import opset13 as op

    return op.transpose(value, _integers(1, 0, 2, 3))


def _split(value: Any, *widths: int) -> tuple[Any, Any]:
    """Split the last of three axes in two."""
    from openvino import opset13 as op

    first, second = op.variadic_split(value, op.constant(2), _integers(*widths)).outputs()
    return first, second
