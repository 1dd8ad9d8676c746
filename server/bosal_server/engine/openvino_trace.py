"""Traces a Hugging Face model in the form that OpenVINO's paged attention recognises.

Past keys and values are inputs and outputs, masks are explicit, head counts are constants. What
passes through the attention interface is recorded first; what paging does not know is refused.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from bosal_server.engine.openvino_runtime import OpenVinoRefused

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


@dataclass(slots=True)
class _Trace:
    """What travels through the model's forward pass; without `past` it only records the layers."""

    layers: dict[int, PagedLayer] = field(default_factory=dict)
    past: list[Tensor] = field(default_factory=list)
    present: list[Tensor] = field(default_factory=list)
    mask: Tensor | None = None


def record_layers(model: Any) -> tuple[PagedLayer, ...]:
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
        raise OpenVinoRefused(f"its forward pass does not trace: {first_line(error)}") from None
    count = model.config.get_text_config().num_hidden_layers
    if sorted(trace.layers) != list(range(count)):
        raise OpenVinoRefused(
            f"{len(trace.layers)} of its {count} layers go through the attention interface"
        )
    return tuple(layer for _, layer in sorted(trace.layers.items()))


class ExportedModel(nn.Module):
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


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
