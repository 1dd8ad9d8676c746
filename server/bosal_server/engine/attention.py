"""Attention over key-value blocks, registered with transformers under one name.

A step mixes chunks of prompts with single new tokens. Chunks attend one sequence at a time; single
tokens attend together, in buckets of similar length, the query heads of a key head side by side.
Tokens that share a long prefix read it once, and the two parts are merged by their log-sum-exp.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from bosal_server.engine.attention_batch import AttentionBatch, DecodeBucket, PrefillChunk

_IMPLEMENTATION = "bosal_blocks"

# Returns (output, log-sum-exp); the public call drops the second.
_flash_with_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def block_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, tokens, head dim]
    key: Tensor,  # [1, kv heads, tokens, head dim]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    bosal_batch: AttentionBatch,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,  # dropout and flags of training; the probe refuses models that pass more
) -> tuple[Tensor, None]:
    """Write the new keys and values, then attend; returns [1, tokens, heads, head dim]."""
    batch = bosal_batch
    layer = batch.pool.layers[module.layer_idx]  # type: ignore[index]
    layer.index_copy_(0, batch.write_rows, torch.stack((key[0], value[0])).permute(2, 0, 1, 3))
    attend = _Attend(batch, layer, scaling, sliding_window, softcap)
    is_plain = sliding_window is None and softcap is None
    buckets = batch.decode if is_plain else batch.plain_decode
    if len(buckets) == 1 and not batch.prefill:
        return attend.decode(query, buckets[0])[None], None
    output = torch.empty(
        query.shape[2], query.shape[1], query.shape[3], dtype=query.dtype, device=query.device
    )
    for bucket in buckets:
        output[bucket.begin : bucket.end] = attend.decode(query, bucket)
    for chunk in batch.prefill:
        output[chunk.begin : chunk.end] = attend.prefill(query, key, value, chunk)
    return output[None], None


def use_block_attention(model: PreTrainedModel) -> None:
    """Let a model's attention layers call `block_attention`; they then need `bosal_batch`."""
    AttentionInterface.register(_IMPLEMENTATION, block_attention)
    model.set_attn_implementation(_IMPLEMENTATION)


class _Attend:
    """The attention of one layer in one step."""

    __slots__ = ("_batch", "_layer", "_scale", "_softcap", "_window")

    def __init__(
        self,
        batch: AttentionBatch,
        layer: Tensor,
        scale: float | None,
        window: int | None,
        softcap: float | None,
    ) -> None:
        self._batch = batch
        self._layer = layer
        self._scale = scale
        self._window = window
        self._softcap = softcap

    def decode(self, query: Tensor, bucket: DecodeBucket) -> Tensor:
        """Attend from one new token per sequence; returns [rows, heads, head dim]."""
        _, _, num_kv_heads, head_dim = self._layer.shape
        num_rows = bucket.end - bucket.begin
        # [rows, kv heads, query heads of each, head dim]
        q = query[0, :, bucket.begin : bucket.end].transpose(0, 1)
        q = q.reshape(num_rows, num_kv_heads, -1, head_dim)
        gathered = self._layer.index_select(0, bucket.read_rows)
        gathered = gathered.view(num_rows, bucket.width, 2, num_kv_heads, head_dim)
        k = gathered[:, :, 0].transpose(1, 2)
        v = gathered[:, :, 1].transpose(1, 2)
        mask = self._batch.decode_mask(bucket, self._window, query.dtype)
        if self._softcap is not None:
            output = self._capped(q, k, v, mask)
        elif bucket.prefix_rows is not None:
            output = self._cascade(q, k, v, mask, bucket.prefix_rows)
        else:
            output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=self._scale)
        return output.reshape(num_rows, -1, head_dim)

    def prefill(self, query: Tensor, key: Tensor, value: Tensor, chunk: PrefillChunk) -> Tensor:
        """Attend from a chunk of one sequence; returns [tokens, heads, head dim]."""
        q = query[:, :, chunk.begin : chunk.end]
        if chunk.read_rows is None:
            k = key[:, :, chunk.begin : chunk.end]
            v = value[:, :, chunk.begin : chunk.end]
        else:
            gathered = self._layer.index_select(0, chunk.read_rows)
            k = gathered[:, 0].transpose(0, 1)[None]
            v = gathered[:, 1].transpose(0, 1)[None]
        capped = self._softcap is not None
        mask = self._batch.prefill_mask(chunk, self._window, query.dtype, force=capped)
        num_groups = q.shape[1] // k.shape[1]
        # CUDA's kernels for masks and for float32 know no grouped heads: what is left there keeps
        # all scores of a chunk in memory.
        if capped or (q.is_cuda and (mask is not None or q.dtype == torch.float32)):
            k = k.repeat_interleave(num_groups, dim=1)
            v = v.repeat_interleave(num_groups, dim=1)
        if capped:
            output = self._capped(q, k, v, mask)
        else:
            output = F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=mask is None,
                scale=self._scale,
                enable_gqa=q.shape[1] != k.shape[1],
            )
        return output[0].transpose(0, 1)

    def _capped(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with scores s -> cap * tanh(s / cap), which no fused kernel does."""
        assert self._softcap is not None
        scale = q.shape[-1] ** -0.5 if self._scale is None else self._scale
        scores = torch.matmul(q, k.transpose(-1, -2)) * scale
        scores = torch.tanh(scores / self._softcap) * self._softcap
        if mask is not None:
            scores = scores + mask
        return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype), v)

    def _cascade(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, prefix: Tensor) -> Tensor:
        """Attend to the shared prefix once for all rows and to each row's own tokens; merge."""
        num_rows, num_kv_heads, num_groups, head_dim = q.shape
        gathered = self._layer.index_select(0, prefix)
        packed = q.transpose(0, 1).reshape(1, num_kv_heads, num_rows * num_groups, head_dim)
        shared, shared_lse = _flash_with_lse(
            packed,
            gathered[:, 0].transpose(0, 1)[None],
            gathered[:, 1].transpose(0, 1)[None],
            scale=self._scale,
        )
        own, own_lse = _flash_with_lse(q, k, v, attn_mask=mask, scale=self._scale)
        shape = (num_kv_heads, num_rows, num_groups)
        shared = shared.reshape(*shape, head_dim).transpose(0, 1)
        # The kernel lays log-sum-exp out as [batch, heads, queries].
        shared_lse = shared_lse.reshape(shape).transpose(0, 1)
        weight = torch.sigmoid(shared_lse - own_lse.reshape(num_rows, num_kv_heads, num_groups))
        return torch.lerp(own.float(), shared.float(), weight[..., None]).to(q.dtype)
