"""Rounds the weight matrices of a converted graph to eight bits, a scale per output channel."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bosal_server.engine.openvino_runtime import load_openvino


def round_weights(graph: Any) -> Any:
    """Return a copy of the graph with int8 matrices: w ~ q * s, s = max |row of w| / 127.

    Embeddings that are looked up, norms and biases stay as they are.
    """
    from openvino import opset13 as op

    graph = graph.clone()
    for node in graph.get_ops():
        if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
            continue
        source = node.input_value(1).get_node()
        if source.get_type_name() == "Convert":
            source = source.input_value(0).get_node()
        if source.get_type_name() != "Constant" or len(source.get_output_shape(0)) != 2:
            continue
        weights = _numbers(source)
        scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True) / 127, 1e-12)
        rounded = op.constant(np.rint(weights / scales).astype(np.int8))
        product = op.multiply(op.convert(rounded, "f32"), op.constant(scales.astype(np.float32)))
        node.input(1).replace_source_output(product.output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def _numbers(constant: Any) -> NDArray[np.float32]:
    data: NDArray[Any] = constant.data
    if constant.get_output_element_type(0) == load_openvino().Type.bf16:
        # Its numbers come as another 16-bit type; a bfloat16 is the upper half of a float32.
        return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return data.astype(np.float32)
