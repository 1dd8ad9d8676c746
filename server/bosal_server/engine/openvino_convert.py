"""Turns a Hugging Face model into an OpenVINO graph whose attention OpenVINO can page.

The model is traced once, with an attention function that keeps past keys and values as the pattern
of OpenVINO's paged attention wants them. Head counts are constants of the trace.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from bosal_server.engine.openvino_runtime import OpenVinoRefused, load_openvino

IMPLEMENTATION = "bosal_openvino"

_KNOWN_ARGUMENTS = frozenset({"scaling", "dropout", "sliding_window", "is_causal"})
_HARMLESS_ARGUMENTS = frozenset({"position_ids", "position_embeddings", "logits_to_keep"})
# Sizes of the trace: sequences, past and new tokens. All different from one another and from 1,
# so that no dimension is taken for another or for a broadcast.
_BATCH, _PAST, _NEW = 2, 5, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedLayer:
    """What OpenVINO's paged attention is told about one layer."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    sliding_window: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A graph with past keys and values as its state, and its attention layers.

    Constants may share memory with the torch model's weights, which `owner` keeps alive.
    """

    graph: Any
    layers: tuple[PagedLayer, ...]
    owner: object = None


@dataclass(slots=True)
class _Trace:
    """What travels through the model's forward pass; without `past` it only records the layers."""

    layers: dict[int, PagedLayer] = field(default_factory=dict)
    past: list[Tensor] = field(default_factory=list)
    present: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None


def convert(model: nn.Module) -> Conversion:
    """Convert; the weights keep their type, arithmetic is float32 until the graph is compiled.

    Raises:
        OpenVinoRefused: the graph would not compute what the model does, or does not convert.
    """
    openvino = load_openvino()
    traced = _traceable_copy(model)
    with _quiet():
        layers = _record_layers(traced)
        wrapper = _Exported(traced, layers)
        try:
            graph = openvino.convert_model(wrapper, example_input=wrapper.example())
        except Exception as error:
            raise OpenVinoRefused(f"its graph does not convert: {_first_line(error)}") from None
    _name_ports(openvino, graph, layers)
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
    memo = {key: weight for key, weight in shared.items() if key not in cast}
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer: it warns of every shape that becomes a constant."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def _record_layers(model: Any) -> tuple[PagedLayer, ...]:
    trace = _Trace()
    try:
        model(
            input_ids=torch.zeros(_BATCH, _NEW, dtype=torch.long),
            position_ids=torch.arange(_NEW).repeat(_BATCH, 1),
            use_cache=False,
            bosal_trace=trace,
        )
    except OpenVinoRefused:
        raise
    except Exception as error:
        raise OpenVinoRefused(f"its forward pass does not trace: {_first_line(error)}") from None
    count = model.config.get_text_config().num_hidden_layers
    if sorted(trace.layers) != list(range(count)):
        raise OpenVinoRefused(
            f"{len(trace.layers)} of its {count} layers go through the attention interface"
        )
    return tuple(layer for _, layer in sorted(trace.layers.items()))


class _Exported(nn.Module):
    """The model as a function of tokens, past keys and values and the rows that need logits."""

    def __init__(self, model: Any, layers: tuple[PagedLayer, ...]) -> None:
        super().__init__()
        self.model = model
        self._layers = layers

    def forward(
        self,
        input_ids: Tensor,  # [batch, new]
        attention_mask: Tensor,  # [batch, past + new]
        position_ids: Tensor,  # [batch, new]
        beam_idx: Tensor,  # [batch]
        logits_rows: Tensor,  # [rows] indices into the flattened [batch, new]
        *past: Tensor,  # keys and values of each layer [batch, kv heads, past, head dim]
    ) -> tuple[Tensor, ...]:
        num_new = input_ids.shape[1]
        num_keys = attention_mask.shape[1]
        queries = torch.arange(num_new)[:, None] + (num_keys - num_new)
        is_visible = (torch.arange(num_keys)[None] <= queries)[None, None]
        trace = _Trace(
            layers=dict(enumerate(self._layers)),
            past=[tensor.index_select(0, beam_idx) for tensor in past],
            present=list(past),
            mask=is_visible & (attention_mask[:, None, None, :] > 0),
        )

        def select_rows(_: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
            hidden = arguments[0]
            return (hidden.reshape(-1, int(hidden.shape[-1])).index_select(0, logits_rows),)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(select_rows)
        try:
            output = self.model(
                input_ids=input_ids,
                position_ids=position_ids,
                use_cache=False,
                bosal_trace=trace,
            )
        finally:
            hook.remove()
        return (output.logits, *trace.present)

    def example(self) -> tuple[Tensor, ...]:
        past = [
            torch.zeros(_BATCH, layer.num_kv_heads, _PAST, layer.head_dim)
            for layer in self._layers
            for _ in ("key", "value")
        ]
        return (
            torch.zeros(_BATCH, _NEW, dtype=torch.long),
            torch.ones(_BATCH, _PAST + _NEW, dtype=torch.long),
            torch.arange(_PAST, _PAST + _NEW).repeat(_BATCH, 1),
            torch.arange(_BATCH, dtype=torch.int32),
            torch.arange(_BATCH * _NEW - 1),
            *past,
        )


def _export_attention(
    module: nn.Module,
    query: Tensor,  # [batch, heads, new, head dim]
    key: Tensor,  # [batch, kv heads, new, head dim]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    bosal_trace: _Trace,
    **arguments: Any,
) -> tuple[Tensor, None]:
    trace = bosal_trace
    if trace.mask is None:
        _record(module, query, key, value, attention_mask, trace, arguments)
        return torch.zeros_like(query).transpose(1, 2), None
    index = int(module.layer_idx)  # type: ignore[arg-type]
    layer = trace.layers[index]
    key = torch.cat([trace.past[2 * index], key], dim=-2)
    value = torch.cat([trace.past[2 * index + 1], value], dim=-2)
    trace.present[2 * index] = key
    trace.present[2 * index + 1] = value
    output = F.scaled_dot_product_attention(
        query,
        _repeat_heads(key, layer),
        _repeat_heads(value, layer),
        attn_mask=trace.mask,
        scale=arguments.get("scaling"),
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, _export_attention)


def _repeat_heads(tensor: Tensor, layer: PagedLayer) -> Tensor:
    num_groups = layer.num_heads // layer.num_kv_heads
    if num_groups == 1:
        return tensor
    batch, _, length, _ = tensor.shape
    expanded = tensor[:, :, None].expand(
        batch, layer.num_kv_heads, num_groups, length, layer.head_dim
    )
    return expanded.reshape(batch, layer.num_heads, length, layer.head_dim)


def _record(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    trace: _Trace,
    arguments: dict[str, Any],
) -> None:
    """Note a layer's shape, or refuse what paged attention does not know."""
    index = getattr(module, "layer_idx", None)
    num_kv_heads, head_dim = int(key.shape[1]), int(key.shape[3])
    if arguments.get("softcap") is not None:
        raise OpenVinoRefused("its attention scores are soft-capped")
    for name, argument in arguments.items():
        is_known = name in _KNOWN_ARGUMENTS or name in _HARMLESS_ARGUMENTS
        if not is_known and argument is not None and argument is not False:
            raise OpenVinoRefused(f"its attention takes '{name}', which is not handled")
    if not isinstance(index, int) or index in trace.layers:
        raise OpenVinoRefused("its attention layers are not numbered one by one")
    if attention_mask is not None:
        raise OpenVinoRefused("its attention takes a mask of its own")
    if key.shape != value.shape or query.shape[3] != head_dim or query.shape[1] % num_kv_heads:
        raise OpenVinoRefused("its queries, keys and values do not fit one another")
    if getattr(module, "is_causal", True) is False or arguments.get("is_causal") is False:
        raise OpenVinoRefused("its attention is not causal")
    trace.layers[index] = PagedLayer(
        num_heads=int(query.shape[1]),
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        sliding_window=arguments.get("sliding_window"),
    )


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
