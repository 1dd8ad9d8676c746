"""Draws the next token of one model's groups from their logits."""

import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from bosal_decoding.errors import PluginFault
from bosal_decoding.explaining_pipeline import ExplainingPipeline
from bosal_decoding.explanation import Explanation
from bosal_decoding.nudging import Move
from bosal_decoding.yielding import yielded_rules
from bosal_kernels import Combined, on_host
from bosal_server.engine.about import about
from bosal_server.engine.forwarding import Forwarding
from bosal_server.engine.group import StreamGroup
from bosal_server.engine.position_logprobs import positions
from bosal_server.engine.request import PositionLogprobs, TokenLogprobs
from bosal_server.engine.rule_clock import RuleClock, RuleOf
from bosal_server.engine.scheduler_step import SchedulerStep
from bosal_server.engine.step_rows import gather_rows, stream_rows

_LOG = logging.getLogger(__name__)

# By the bits of `Selection.yielded`.
_YIELDED = tuple(yielded_rules(bits) for bits in range(16))


class Draw(NamedTuple):
    """What came out for one group; token -1 means that nothing legal was left."""

    token: int
    is_faulty: bool  # the model gave no usable row
    yielded: tuple[str, ...]
    logprobs: PositionLogprobs | None
    explanation: Explanation | None = None
    is_intervention: bool = False  # other streams than the base had a say
    is_asking: bool = False  # no token: it is the guide's turn
    fault: PluginFault | None = None  # no token: a rule of another package failed

    @property
    def is_taken(self) -> bool:
        """Whether a token was drawn that the choice goes on with."""
        return self.token >= 0 and not self.is_asking and self.fault is None

    @classmethod
    def failed(cls, fault: PluginFault) -> "Draw":
        return cls(-1, False, (), None, fault=fault)


class Sampler:
    """Turns a step's logits into tokens, and keeps a request's fault from its neighbours."""

    def __init__(self, forwarding: Forwarding, pipelines: Mapping[str, ExplainingPipeline]) -> None:
        self._forwarding = forwarding
        self._pipelines = pipelines
        self._clocks = {name: RuleClock() for name in pipelines}

    def take_rule_seconds(self) -> dict[str, Mapping[RuleOf, float]]:
        """Return the seconds of control by model, label and rule since the last call."""
        return {name: clock.take() for name, clock in self._clocks.items()}

    def take_fill_seconds(self) -> dict[str, float]:
        """Return the seconds of filling constraints' masks by model since the last call."""
        return {name: pipeline.take_fill_seconds() for name, pipeline in self._pipelines.items()}

    def draw(
        self, model: str, step: SchedulerStep, members: Sequence[int], logits: Mapping[str, Tensor]
    ) -> list[Draw | None]:
        """Draw and commit for the ready groups `members` of a base model.

        None stands for a group whose control failed.
        """
        pipeline = self._pipelines[model]
        try:
            draws = self._draw_all(pipeline, step, members, logits, self._clocks[model])
        except Exception:
            _LOG.exception("control failed for a batch of model '%s'; trying row by row", model)
            draws = self._draw_alone(pipeline, step, members)
        slots, tokens = [], []
        for member, drawn in zip(members, draws, strict=True):
            if drawn is not None and drawn.is_taken:
                slots.append(step.ready[member].slot)
                tokens.append([drawn.token])
        pipeline.slots.commit(slots, tokens)
        return draws

    def score(
        self,
        step: SchedulerStep,
        member: int,
        tokens: Sequence[int],
        logits: Mapping[str, Tensor],
        *,
        prepare: Callable[[], None],
    ) -> TokenLogprobs | None:
        """Score and commit given tokens, one for each row of a ready group; None if one is faulty.

        Rules act position by position, as if the tokens had been drawn; `prepare` is called before
        each.
        """
        group = step.ready[member]
        assert group.scoring is not None
        pipeline = self._pipelines[group.streams[0].model]
        found = TokenLogprobs()
        for place, token in enumerate(tokens):
            prepare()
            rows = gather_rows(step, [member], logits, offset=place).to(torch.float32, copy=True)
            controlled = pipeline.apply(pipeline.combine(rows, [group.slot]), [group.slot])
            for fault in pipeline.take_faults().values():
                raise fault
            if bool(controlled.invalid[0]):
                return None
            (one,) = positions(pipeline.score(controlled, [token])).values()
            found.append(one)
            if not pipeline.slots.is_legal(group.slot, token):
                # What comes behind it belongs to no text of the language.
                group.scoring.forbidden_position = group.scoring.num_scored + place
                pipeline.slots.lift_constraint(group.slot)
            pipeline.slots.commit([group.slot], [[token]])
            if pipeline.slots.was_forced(group.slot):
                group.scoring.forced.append(group.scoring.num_scored + place)
        return found

    @staticmethod
    def _draw_all(
        pipeline: ExplainingPipeline,
        step: SchedulerStep,
        members: Sequence[int],
        logits: Mapping[str, Tensor],
        clock: RuleClock,
    ) -> list[Draw | None]:
        """Draw for all members; what the kernels cannot draw does not keep them from the rest."""
        if pipeline.backend != "triton":
            return [*_select(pipeline, step, members, logits, clock)]
        draws: list[Draw | None] = [None] * len(members)
        places: dict[bool, list[int]] = {}
        for place, member in enumerate(members):
            is_fused = _is_fused(pipeline, step.ready[member])
            places.setdefault(is_fused, []).append(place)
        for part in places.values():
            drawn = _select(pipeline, step, [members[place] for place in part], logits, clock)
            for place, one in zip(part, drawn, strict=True):
                draws[place] = one
        return draws

    def _draw_alone(
        self, pipeline: ExplainingPipeline, step: SchedulerStep, members: Sequence[int]
    ) -> list[Draw | None]:
        """Compute the step's logits again, since control edits them in place, and draw by row."""
        models = dict.fromkeys(
            stream.model for member in members for stream in step.ready[member].active
        )
        logits = {
            model: rows
            for model in models
            if (rows := self._forwarding.forward(model, step)) is not None
        }
        lost = set(self._forwarding.take_failed())
        draws: list[Draw | None] = []
        for member in members:
            group = step.ready[member]
            if group in lost:
                draws.append(None)
                continue
            try:
                draws += _select(pipeline, step, [member], logits)
            except PluginFault as fault:
                draws.append(Draw.failed(fault))
            except Exception:
                id_ = group.request_id
                _LOG.exception("request %s: control failed", id_, extra=about(id_))
                draws.append(None)
        return draws


def _select(
    pipeline: ExplainingPipeline,
    step: SchedulerStep,
    members: Sequence[int],
    logits: Mapping[str, Tensor],
    clock: RuleClock | None = None,
) -> list[Draw]:
    """Combine, control and sample; changes logits in place, and nothing else."""
    groups = [step.ready[member] for member in members]
    rows = gather_rows(step, members, logits)
    slots = [group.slot for group in groups]
    explained = [i for i, group in enumerate(groups) if pipeline.is_explained(group.slot)]
    is_fused = all(_is_fused(pipeline, group) for group in groups)
    if not is_fused:
        rows = rows.float()
    streams = stream_rows(rows, groups, explained) if explained else rows
    moves: dict[int, Move] = {}
    forced = None
    controlled = None
    if is_fused:
        selection, acted = pipeline.draw(rows, slots)
        if clock is not None:
            # The rules share two launches: plug-ins alone have seconds of their own.
            plugins = pipeline.take_plugin_seconds()
            labelled = [(group.label, group.rules) for group in groups]
            clock.add(labelled, [0.0, sum(plugins.values()), 0.0], plugins)
    else:
        times = [perf_counter()]
        combined = pipeline.combine(rows, slots)
        times.append(perf_counter())
        controlled = pipeline.apply(combined, slots)
        times.append(perf_counter())
        moves = _moves(pipeline, combined, groups)
        forced = _forced(groups, moves)
        selection = pipeline.sample(controlled, forced)
        times.append(perf_counter())
        acted = selection.invalid if combined.acted is None else combined.acted
        selection, acted = on_host(selection, acted)
        if clock is not None:
            seconds = [end - begin for begin, end in pairwise(times)]
            labelled = [(group.label, group.rules) for group in groups]
            clock.add(labelled, seconds, pipeline.take_plugin_seconds())
    faults = pipeline.take_faults()
    columns = (selection.tokens, selection.yielded, selection.invalid, acted)
    tokens, yielded, invalid, acts = (column.tolist() for column in columns)
    logprobs = {} if selection.logprobs is None else positions(selection.logprobs)
    drawn = [
        i
        for i in explained
        if tokens[i] >= 0
        and not invalid[i]
        and moves.get(i) is not Move.ASK
        and slots[i] not in faults
    ]
    explanations: dict[int, Explanation] = {}
    if drawn and controlled is not None:
        if drawn != explained:
            kept = [groups[i] for i in explained]
            streams = stream_rows(streams, kept, [explained.index(i) for i in drawn])
        found = pipeline.explanations(streams, controlled, drawn, [tokens[i] for i in drawn])
        explanations = dict(zip(drawn, found, strict=True))
    return [
        Draw.failed(faults[slots[i]])
        if slots[i] in faults
        else Draw(
            tokens[i],
            bool(invalid[i]),
            _YIELDED[yielded[i]],
            logprobs.get(i),
            explanations.get(i),
            bool(acts[i]) or (forced is not None and tokens[i] == forced[i]),
            moves.get(i) is Move.ASK,
        )
        for i in range(len(groups))
    ]


def _is_fused(pipeline: ExplainingPipeline, group: StreamGroup) -> bool:
    """Whether kernels may draw for a group: nobody asks about what precedes the draw."""
    return (
        pipeline.backend == "triton"
        and not pipeline.is_explained(group.slot)
        and group.nudger is None
    )


def _moves(
    pipeline: ExplainingPipeline, combined: Combined, groups: Sequence[StreamGroup]
) -> dict[int, Move]:
    """Ask the nudged groups what they do at this step, by their place; not where it is dictated."""
    nudged = [
        (i, group.nudger)
        for i, group in enumerate(groups)
        if group.nudger is not None and not pipeline.slots.is_dictated(group.slot)
    ]
    if not nudged:
        return {}
    sure = pipeline.certainty(combined, [i for i, _ in nudged])
    return {
        i: nudger.at_base(
            top1,
            best,
            groups[i].output,
            is_in_force=nudger.rule is None
            or bool(pipeline.slots.in_force(groups[i].slot, [nudger.rule])),
        )
        for (i, nudger), top1, best in zip(nudged, *sure, strict=True)
    }


def _forced(groups: Sequence[StreamGroup], moves: Mapping[int, Move]) -> list[int] | None:
    """Return every group's forced token, -1 for none; None if nobody has one."""
    forced = [-1] * len(groups)
    for i, move in moves.items():
        nudger = groups[i].nudger
        if move is Move.FORCE and nudger is not None:
            forced[i] = nudger.forced
    return forced if max(forced) >= 0 else None
