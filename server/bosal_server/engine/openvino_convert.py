"""Turns a Hugging Face model into an OpenVINO graph whose attention OpenVINO can page."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from bosal_server.engine.openvino_runtime import OpenVinoRefused, load_openvino
from bosal_server.engine.openvino_trace import (
    IMPLEMENTATION,
    ExportedModel,
    PagedLayer,
    first_line,
    record_layers,
)

# Numbers in a matrix from which on reading it from memory costs more than widening it. A smaller
# one stays in the processor's cache: of sixteen bits, prompts would take a fifth longer.
_NARROWED_SIZE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A graph with past keys and values as its state, and its attention layers.

    Constants may share memory with the torch model's weights, which `owner` keeps alive.
    """

    graph: Any
    layers: tuple[PagedLayer, ...]
    owner: object = None


def convert(model: nn.Module) -> Conversion:
    """Convert; arithmetic is float32 until the graph is compiled.

    The weights keep their type, but for large matrices of float32 that sixteen bits hold exactly.

    Raises:
        OpenVinoRefused: the graph would not compute what the model does, or does not convert.
    """
    openvino = load_openvino()
    traced = _traceable_copy(model)
    with _quiet():
        layers = record_layers(traced)
        wrapper = ExportedModel(traced, layers)
        try:
            graph = openvino.convert_model(wrapper, example_input=wrapper.example())
        except Exception as error:
            raise OpenVinoRefused(f"its graph does not convert: {_cause(error)}") from None
    _name_ports(openvino, graph, layers)
    _fold_integers(graph)
    _keep_state(openvino, graph, layers)
    # The storage itself: a model may be given other weights, as casting it does.
    owner = (traced, [weight.detach() for weight in traced.parameters()])
    return Conversion(graph=graph, layers=layers, owner=owner)


def _traceable_copy(model: nn.Module) -> Any:
    """Copy the modules but share the large weights, which need not be float32 for the trace."""
    patch = load_openvino().frontend.pytorch.patch_model
    extensions, stashed_types = patch._get_16bit_extensions()
    shared: dict[int, nn.Parameter] = {}
    cast: set[int] = set()
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            if type(module) in extensions:
                shared[id(weight)] = weight
            else:
                cast.add(id(weight))
    # Weights of other modules are cast in place, so a tied one must be a copy.
    memo = {key: _narrowed(weight) for key, weight in shared.items() if key not in cast}
    traced: Any = copy.deepcopy(model, memo)
    traced.set_attn_implementation(IMPLEMENTATION)
    traced.eval()
    # As OpenVINO prepares 16-bit models, but for its replacing of torch functions for everybody:
    # linear layers and embeddings become single operations, other weights are cast.
    for name, module in traced.named_modules():
        if type(module) in extensions:
            patch._stash_weights_as_fp32_placeholders(module, stashed_types)
            patch.module_patcher(module, name, "_bosal_forward", extensions)
        else:
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if tensor.is_floating_point():
                    tensor.data = tensor.data.float()
    return traced


def _narrowed(weight: nn.Parameter) -> nn.Parameter:
    """Return a large float32 matrix in sixteen bits if that changes no number: less to read.

    So are those of a checkpoint in sixteen bits that was loaded in float32.
    """
    if weight.dtype != torch.float32 or weight.numel() < _NARROWED_SIZE:
        return weight
    numbers = weight.detach()
    for dtype in (torch.bfloat16, torch.float16):
        # One row tells nearly always; all of them are looked at where it does not.
        if all(torch.equal(part.to(dtype).float(), part) for part in (numbers[:1], numbers)):
            return nn.Parameter(numbers.to(dtype), requires_grad=False)
    return weight


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer: it warns of every shape that becomes a constant, and reads everything."""
    verbosity = transformers.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.utils.logging.set_verbosity(verbosity)


def _cause(error: Exception) -> str:
    """Return the line that names the operations OpenVINO has no rule for, if there is one."""
    lines = (line.strip("- ") for line in str(error).splitlines())
    return next((line for line in lines if "No conversion rule" in line), first_line(error))


def _past_names(layers: tuple[PagedLayer, ...], kind: str) -> list[str]:
    return [f"{kind}.{i}.{part}" for i in range(len(layers)) for part in ("key", "value")]


def _name_ports(openvino: Any, graph: Any, layers: tuple[PagedLayer, ...]) -> None:
    """Give inputs and outputs the names the transformations look for, and their free dimensions."""
    token_names = ["input_ids", "attention_mask", "position_ids", "beam_idx", "logits_rows"]
    names = token_names + _past_names(layers, "past")
    shapes = [[-1, -1], [-1, -1], [-1, -1], [-1], [-1]] + [
        [-1, layer.num_kv_heads, -1, layer.head_dim] for layer in layers for _ in range(2)
    ]
    for port, name, shape in zip(graph.inputs, names, shapes, strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_partial_shape(openvino.PartialShape(shape))
    outputs = ["logits", *_past_names(layers, "present")]
    for port, name in zip(graph.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    graph.validate_nodes_and_infer_types()


def _fold_integers(graph: Any) -> None:
    """Turn converted integer constants into constants of the wanted type.

    The front end leaves them; the minus one of a rotation is then not recognised as such, rotary
    embeddings stay loose operations, and bfloat16 rounds their angles.
    """
    from openvino import opset13 as op

    for node in graph.get_ops():
        source = node.input_value(0).get_node() if node.get_type_name() == "Convert" else None
        if source is None or source.get_type_name() != "Constant":
            continue
        if source.get_output_element_type(0).is_integral():
            wanted = node.get_output_element_type(0).to_dtype()
            constant = op.constant(source.data.astype(wanted))
            for target in list(node.output(0).get_target_inputs()):
                target.replace_source_output(constant.output(0))


def _keep_state(openvino: Any, graph: Any, layers: tuple[PagedLayer, ...]) -> None:
    """Make past keys and values a state that is empty at first."""
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation

    pairs = zip(_past_names(layers, "past"), _past_names(layers, "present"), strict=True)
    apply_make_stateful_transformation(graph, dict(pairs))
    shape = op.shape_of(graph.input("input_ids"), output_type="i64")
    batch = op.gather(shape, op.constant([0]), op.constant(0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            dims = node.get_output_partial_shape(0)
            heads, width = (dims[i].get_length() for i in (1, 3))
            rest = op.constant(np.array([heads, 0, width], np.int64))
            zero = op.constant(0.0, dtype=node.get_output_element_type(0))
            node.set_arguments([op.broadcast(zero, op.concat([batch, rest], axis=0))])
    graph.validate_nodes_and_infer_types()
