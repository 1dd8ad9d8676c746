"""Compiles a recipe for one vocabulary: strings to tokens, conflicts found before any work."""

from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType
from typing import Final

import numpy as np

from bosal_decoding.conflicts import check_conflicts
from bosal_decoding.constraints import Constraint
from bosal_decoding.errors import PromptTooLong
from bosal_decoding.nudging import GuidePlan
from bosal_decoding.opening import Opener
from bosal_decoding.plan import CompiledRule, Plan
from bosal_decoding.prompt import tokens_within
from bosal_decoding.recipe import Recipe
from bosal_decoding.rules import Draft
from bosal_decoding.scaffolds import Message, Rendered, Scaffold
from bosal_decoding.streams import BASE_ROLE, SamePrompt, StreamModel, StreamPlan, StreamSpec
from bosal_decoding.vocabulary import Vocabulary, common_prefix
from bosal_kernels import Scope, SlotParams, packed

# Openings that tokenizers treat differently; what all leave alone before them is stable.
_PROBES: Final = (
    "Hello", "a", "the quick", "I", "1", "2024", "!x", "'s", '"x', ")x", "::", "__x", "#x", "-x",
    "éa", "中文", "😀x", "\u0301x", "ну", "/x",
)  # fmt: skip
# Characters before an instruction that are tokenised anew with every probe; what an opening can
# change lies well within.
_TAIL_CHARS: Final = 256
_ANY_CONSTRAINT: Final = Constraint(regex=".*")


def compile(
    recipe: Recipe,
    vocabulary: Vocabulary,
    *,
    context_tokens: int,
    models: tuple[StreamModel, ...] = (),
) -> Plan:
    """Compile, or return the plan compiled before for the same recipe and vocabulary.

    `models` are those that its rules may name.
    """
    return _compile(recipe, vocabulary, context_tokens, models)


@lru_cache(maxsize=256)
def _compile(
    recipe: Recipe,
    vocabulary: Vocabulary,
    context_tokens: int,
    models: tuple[StreamModel, ...],
) -> Plan:
    # Requests that differ in their constraints alone share what compiles to the same.
    alike = _with_any_constraint(recipe)
    plan = _compile_once(alike, vocabulary, context_tokens, models)
    return plan if alike is recipe else replace(plan, recipe=recipe)


def _with_any_constraint(recipe: Recipe) -> Recipe:
    """Put a stand-in in the place of a constraint whose contents no rule looks at."""
    constraint = recipe.constraint
    is_read = any(rule.name == "banned_strings" for rule in recipe.rules)
    if constraint is None or (constraint.choice is not None and is_read):
        return recipe
    return recipe.with_constraint(_ANY_CONSTRAINT)


@lru_cache(maxsize=256)
def _compile_once(
    recipe: Recipe,
    vocabulary: Vocabulary,
    context_tokens: int,
    models: tuple[StreamModel, ...],
) -> Plan:
    draft = Draft(
        vocabulary=vocabulary,
        models={model.name: model for model in models},
        turn_marks=recipe.scaffold.turn_marks,
        has_constraint=recipe.constraint is not None,
    )
    compiled = []
    for index, rule in enumerate(recipe.rules):
        scope = rule.kernel_scope(has_constraint=draft.has_constraint)
        draft.begin(index, scope or Scope())
        if scope is None:
            draft.notes.append(f"{draft.path}: never acts, for there is no constraint")
        else:
            rule.contribute(draft)
        compiled.append(
            CompiledRule(
                rule=rule.name,
                stage=rule.stage.value,
                params=rule.params(),
                token_ids=draft.token_ids,
            )
        )
    check_conflicts(recipe, draft)
    pinned, scaffold_tokens = _scaffold_tokens(recipe.scaffold, vocabulary, context_tokens)
    streams = _streams(recipe.scaffold, draft, context_tokens, pinned)
    return Plan(
        recipe=recipe,
        vocabulary=vocabulary,
        context_tokens=context_tokens,
        params=SlotParams(
            key=0,
            **draft.numbers,
            allowed=tuple(packed(np.flatnonzero(kept)) for kept in draft.allowed.values()),
            scoped=tuple(draft.scoped),
            chain=tuple(draft.chain),
        ),
        allowed_by=tuple(draft.allowed),
        deltas=tuple((token, delta) for token, delta in draft.deltas.items() if delta),
        instruction_flags=draft.instruction_flags,
        edits_end=draft.edits_end,
        breakers=tuple(sorted(draft.breakers)),
        stops=draft.stops(),
        bans=draft.bans(),
        watchers=tuple(draft.watchers),
        text_scopes=MappingProxyType(draft.text_scopes),
        plugins=tuple(draft.plugins),
        max_tokens=draft.max_tokens,
        streams=streams,
        guide=_guide(recipe.scaffold, draft, streams),
        coupling=draft.coupling,
        opener=_opener(recipe.scaffold, draft),
        phrases=tuple(draft.phrases),
        rules=tuple(compiled),
        notes=tuple(draft.notes),
        scaffold_tokens=scaffold_tokens,
    )


def _opener(scaffold: Scaffold, draft: Draft) -> Opener:
    lead = "" if not draft.prefill or draft.prefill.startswith(scaffold.lead) else scaffold.lead
    return Opener(
        answer=lead + draft.prefill,
        heals_prompt=draft.heals_prompt,
        heals_answer=draft.heals_prefill,
    )


def _streams(
    scaffold: Scaffold, draft: Draft, context_tokens: int, pinned: tuple[int, ...]
) -> tuple[StreamPlan, ...]:
    base = StreamPlan(
        role=BASE_ROLE,
        model="",
        vocabulary=draft.vocabulary,
        context_tokens=context_tokens,
        prompt=SamePrompt(),
        pinned_ids=pinned,
    )
    plans = [base]
    for spec in draft.streams:
        plans.append(_stream(spec, scaffold, draft, base, stream=len(plans)))
    return tuple(plans)


def _stream(
    spec: StreamSpec, scaffold: Scaffold, draft: Draft, base: StreamPlan, *, stream: int
) -> StreamPlan:
    model = draft.models[spec.model] if spec.model else None
    vocabulary = model.vocabulary if model else base.vocabulary
    room = model.context_tokens if model else base.context_tokens
    frame = spec.prompt.scaffold_of(scaffold)
    if frame is None:
        pinned: tuple[int, ...] = ()
    elif frame is scaffold and vocabulary == base.vocabulary:
        pinned = base.pinned_ids
    else:
        pinned = _scaffold_tokens(frame, vocabulary, room, stream=stream)[0]
    return StreamPlan(
        role=spec.role,
        model=spec.model,
        vocabulary=vocabulary,
        context_tokens=room,
        prompt=spec.prompt,
        pinned_ids=pinned,
    )


def _guide(scaffold: Scaffold, draft: Draft, streams: tuple[StreamPlan, ...]) -> GuidePlan | None:
    if draft.guide is None:
        return None
    frame = draft.guide.prompt.scaffold_of(scaffold)
    assert frame is not None
    return GuidePlan(
        stream=_stream(draft.guide, scaffold, draft, streams[0], stream=len(streams)),
        top1_below=draft.nudges_below,
        rule=draft.nudged_by,
        reserve_bytes=draft.guide_bytes,
        lead=scaffold.lead,
        guide_lead=frame.lead,
    )


def _scaffold_tokens(
    scaffold: Scaffold, vocabulary: Vocabulary, context_tokens: int, *, stream: int = 0
) -> tuple[tuple[int, ...], int]:
    """The leading tokens that no instruction changes, and the tokens beyond the instruction."""
    rendered = _probe(scaffold, _PROBES[0])
    ids, offsets = vocabulary.encode_with_offsets(rendered.text)
    num_scaffold = len(ids) - len(tokens_within(rendered.spans, ids, offsets))
    # One that may drop examples is judged with every conversation.
    if num_scaffold + 2 > context_tokens and not scaffold.drop_oldest:
        raise PromptTooLong(num_scaffold + 1, 1, context_tokens, stream=stream)
    if rendered.stable_chars == 0:
        return (), num_scaffold
    begin = max(rendered.stable_chars - _TAIL_CHARS, 0)
    tails = [
        vocabulary.encode_with_offsets(_probe(scaffold, text).text[begin:]) for text in _PROBES
    ]
    tail_ids, tail_offsets = tails[0]
    num_shared = min(common_prefix(tail_ids, other_ids) for other_ids, _ in tails[1:])
    end = begin + (tail_offsets[num_shared - 1][1] if num_shared else 0)
    # What is chosen by the question may be the same for all probes.
    end = min(end, rendered.stable_chars)
    pinned = tuple(token for token, (_, stop) in zip(ids, offsets, strict=True) if stop <= end)
    return pinned, num_scaffold


def _probe(scaffold: Scaffold, text: str) -> Rendered:
    return scaffold.render([Message(role="user", text=text)])[0]
