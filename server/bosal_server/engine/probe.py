"""Finds out, on the loaded weights, whether block attention computes exactly what the model does.

Whatever passes through the attention interface is recorded once; what block attention does not
know is refused by name. Then two sequences, packed and in chunks, must give the model's own logits.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from bosal_server.engine.kv_pool import LayerShape
from bosal_server.engine.step import Chunk, StepPlan
from bosal_server.engine.torch_runner import BLOCK_SIZE, TorchRunner
from bosal_server.errors import ModelUnsupported

_IMPLEMENTATION = "bosal_probe"
_KNOWN_ARGUMENTS = frozenset({"scaling", "dropout", "sliding_window", "softcap", "is_causal"})
_HARMLESS_ARGUMENTS = frozenset({"position_ids", "position_embeddings", "logits_to_keep"})
_PROBE_TOKENS = (2 * BLOCK_SIZE + 5, BLOCK_SIZE + 2)
_CHUNK_TOKENS = 23
# Relative to the largest logit; a wrong mask or a mixed-up sequence is off by far more.
_TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(slots=True)
class _Recorder:
    layers: dict[int, LayerShape] = field(default_factory=dict)
    windows: dict[int, int | None] = field(default_factory=dict)
    objections: list[str] = field(default_factory=list)

    def attend(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        arguments: dict[str, Any],
    ) -> Tensor:
        """Record a call of the attention interface and answer it roughly."""
        index = getattr(module, "layer_idx", None)
        if not isinstance(index, int) or index in self.layers:
            self.objections.append("its attention layers are not numbered one by one")
        elif key.shape != value.shape or query.shape[-1] != key.shape[-1]:
            self.objections.append("its keys and values differ in width")
        elif query.shape[1] % key.shape[1]:
            self.objections.append("its query heads do not divide among its key heads")
        elif getattr(module, "is_causal", True) is False or arguments.get("is_causal") is False:
            self.objections.append("its attention is not causal")
        else:
            self.layers[index] = LayerShape(num_kv_heads=key.shape[1], head_dim=key.shape[3])
            self.windows[index] = arguments.get("sliding_window")
        known = _KNOWN_ARGUMENTS | _HARMLESS_ARGUMENTS
        for name, argument in arguments.items():
            if name not in known and argument is not None and argument is not False:
                self.objections.append(f"its attention takes '{name}', which is not handled")
        repeats = query.shape[1] // key.shape[1]
        return F.scaled_dot_product_attention(
            query,
            key.repeat_interleave(repeats, dim=1),
            value.repeat_interleave(repeats, dim=1)[..., : query.shape[-1]],
            is_causal=True,
            scale=arguments.get("scaling"),
        )


def _recording_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    bosal_recorder: _Recorder,
    **arguments: Any,
) -> tuple[Tensor, None]:
    return bosal_recorder.attend(module, query, key, value, arguments).transpose(1, 2), None


@torch.inference_mode()
def probe(name: str, model: Any, *, context_tokens: int) -> tuple[LayerShape, ...]:
    """Return the attention layers' shapes.

    Raises:
        ModelUnsupported: block attention would not compute what the model does.
    """
    architecture = type(model).__name__
    config = model.config.get_text_config()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    sequences = [
        torch.randint(0, config.vocab_size, (min(n, context_tokens),), generator=generator)
        for n in _PROBE_TOKENS
    ]
    model.eval()
    recorder = _Recorder()
    AttentionInterface.register(_IMPLEMENTATION, _recording_attention)
    model.set_attn_implementation(_IMPLEMENTATION)
    # A model whose attention is beyond the recorder may also fail in it.
    failure = None
    try:
        model(
            input_ids=sequences[1][None].to(device),
            position_ids=torch.arange(len(sequences[1]), device=device)[None],
            use_cache=False,
            bosal_recorder=recorder,
        )
    except Exception as error:
        failure = f"its forward pass takes no packed rows ({type(error).__name__})"
    layers = tuple(shape for _, shape in sorted(recorder.layers.items()))
    objection = (
        next(iter(recorder.objections), failure)
        or _object_to_layers(recorder, config.num_hidden_layers)
        or _object_to_windows(recorder.windows, config, context_tokens)
    )
    if objection is None:
        model.set_attn_implementation("eager")
        expected = [_last_logits(model, sequence.to(device)) for sequence in sequences]
        actual = _packed_logits(model, layers, [sequence.tolist() for sequence in sequences])
        objection = _object_to_logits(expected, actual, next(model.parameters()).dtype)
    if objection is not None:
        raise ModelUnsupported(name, architecture, objection)
    return layers


def _object_to_layers(recorder: _Recorder, num_hidden_layers: int) -> str | None:
    if sorted(recorder.layers) != list(range(num_hidden_layers)):
        return (
            f"{len(recorder.layers)} of its {num_hidden_layers} layers "
            "go through the attention interface"
        )
    return None


def _object_to_windows(
    windows: dict[int, int | None], config: Any, context_tokens: int
) -> str | None:
    """Compare the windows that attention is told with those the configuration states."""
    window = getattr(config, "sliding_window", None)
    if window is None or not getattr(config, "use_sliding_window", True):
        window = None
    kinds = getattr(config, "layer_types", None)
    for index, told in windows.items():
        is_sliding = kinds is None or kinds[index] == "sliding_attention"
        stated = window if is_sliding else None
        if told != stated and not (told is None and stated and stated >= context_tokens):
            return f"layer {index} has a sliding window of {stated} but attention is told {told}"
    return None


def _object_to_logits(
    expected: list[Tensor], actual: list[Tensor], dtype: torch.dtype
) -> str | None:
    for want, got in zip(expected, actual, strict=True):
        if not want.isfinite().all():
            return "its logits are not finite"
        error = float((want - got).abs().max() / want.abs().max().clamp_min(1e-6))
        if not error <= _TOLERANCES[dtype]:
            return f"packed rows in chunks give other logits (relative error {error:.1e})"
    return None


def _last_logits(model: Any, sequence: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=sequence[None], use_cache=False).logits
    return logits[0, -1].float()


def _packed_logits(
    model: Any, layers: tuple[LayerShape, ...], sequences: list[list[int]]
) -> list[Tensor]:
    """Compute last logits of both sequences side by side, in chunks that end with one token."""
    blocks = [[5, 1, 3], [0, 4]]
    runner = TorchRunner(model, layers, num_blocks=6)
    done = [0, 0]
    while True:
        ends = [
            min(begin + _CHUNK_TOKENS, len(tokens) - 1) if begin < len(tokens) - 1 else len(tokens)
            for begin, tokens in zip(done, sequences, strict=True)
        ]
        if all(end == len(tokens) for end, tokens in zip(ends, sequences, strict=True)):
            break
        chunks = [
            Chunk(tokens[begin:end], begin, table, False)
            for tokens, begin, end, table in zip(sequences, done, ends, blocks, strict=True)
            if end < len(tokens)
        ]
        runner.forward(StepPlan.pack(chunks, BLOCK_SIZE))
        done = [min(end, len(tokens) - 1) for end, tokens in zip(ends, sequences, strict=True)]
    last = [
        Chunk(tokens[-1:], len(tokens) - 1, table, True)
        for tokens, table in zip(sequences, blocks, strict=True)
    ]
    logits = runner.forward(StepPlan.pack(last, BLOCK_SIZE))
    runner.close()
    return [logits[0], logits[1]]
