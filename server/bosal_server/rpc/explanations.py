"""Explanations to protobuf."""

from collections.abc import Sequence

from bosal.v1 import generation_pb2 as pb
from bosal_decoding.explanation import Explanation, ExplanationSummary, RuleEffect, Shift
from bosal_decoding.vocabulary import Vocabulary
from bosal_server.rpc.spelling import token_bytes

_SHIFTS = {shift: pb.Shift.Value(f"SHIFT_{shift.value}") for shift in Shift}


def explanations(
    found: Sequence[Explanation | None], vocabulary: Vocabulary
) -> list[pb.Explanation]:
    """Write one message per token; an empty one stands for a token that was not drawn."""
    return [pb.Explanation() if one is None else _explanation(one, vocabulary) for one in found]


def _explanation(one: Explanation, vocabulary: Vocabulary) -> pb.Explanation:
    raw_argmax_bytes, uncontrolled_bytes = token_bytes(
        (one.raw_argmax, one.uncontrolled_token), vocabulary
    )
    return pb.Explanation(
        raw_logprob=one.raw_logprob,
        raw_rank=one.raw_rank,
        controlled_logprob=one.controlled_logprob,
        controlled_rank=one.controlled_rank,
        entropy=one.entropy,
        divergence=one.divergence,
        raw_argmax=one.raw_argmax,
        raw_argmax_bytes=raw_argmax_bytes,
        uncontrolled_token=one.uncontrolled_token,
        uncontrolled_bytes=uncontrolled_bytes,
        shift=_SHIFTS[one.shift],
        rules=[_effect(effect, vocabulary) for effect in one.effects],
        forbidden_mass=one.forbidden_mass,
    )


def _effect(effect: RuleEffect, vocabulary: Vocabulary) -> pb.RuleEffect:
    message = pb.RuleEffect(
        rule=effect.rule,
        on_chosen=effect.on_chosen,
        on_uncontrolled=effect.on_uncontrolled,
        masked_tokens=effect.masked_tokens,
        flips=effect.flips,
        stream=effect.stream,
    )
    if effect.token_without is not None:
        message.token_without = effect.token_without
        (message.token_without_bytes,) = token_bytes((effect.token_without,), vocabulary)
    return message


def summary(found: ExplanationSummary) -> pb.ExplanationSummary:
    return pb.ExplanationSummary(
        unshifted_tokens=found.shifts[Shift.UNSHIFTED],
        marginal_tokens=found.shifts[Shift.MARGINAL],
        shifted_tokens=found.shifts[Shift.SHIFTED],
        changed_tokens=found.num_changed,
        mean_divergence=found.mean_divergence,
        mean_forbidden_mass=found.mean_forbidden_mass,
        rules=[
            pb.RuleSummary(rule=rule, activations=count, flips=found.flips[rule])
            for rule, count in found.activations.items()
        ],
    )
