"""What a step's outcome means for each choice: its token, its text, its end."""

import logging
from collections.abc import Collection, Mapping
from time import monotonic

import torch
from torch import Tensor

from bosal_decoding.constraints.constrained_slot import Verdict
from bosal_decoding.nudging import End
from bosal_decoding.slots import Slots
from bosal_server.engine.about import about
from bosal_server.engine.active_request import ActiveRequest
from bosal_server.engine.choice import Rollback
from bosal_server.engine.group import StreamGroup
from bosal_server.engine.request import Adherence, FinishReason, TokensEvent
from bosal_server.engine.roster import Roster
from bosal_server.engine.sampler import Draw, Sampler
from bosal_server.engine.scheduler_step import SchedulerStep
from bosal_server.errors import InternalFault

_LOG = logging.getLogger(__name__)

_NO_TOKEN = {
    Verdict.GO_ON: FinishReason.RULE_CONFLICT,
    Verdict.DEAD_END: FinishReason.CONSTRAINT_DEAD_END,
    Verdict.TOO_SLOW: FinishReason.CONSTRAINT_TOO_SLOW,
}
_ENDS = {
    Verdict.COMPLETE: FinishReason.CONSTRAINT_COMPLETE,
    Verdict.CLOSED: FinishReason.CONSTRAINT_CLOSED,
    Verdict.TOO_SLOW: FinishReason.CONSTRAINT_TOO_SLOW,
}


class Settler:
    """Commits tokens to groups and outputs, and hands on what became final."""

    def __init__(self, roster: Roster, slots: Mapping[str, Slots], sampler: Sampler) -> None:
        self._roster = roster
        self._slots = slots
        self._sampler = sampler

    def open(self, active: ActiveRequest, group: StreamGroup, now: float) -> None:
        """Begin a fresh choice's output with what its rules dictate."""
        self._take_forced(active, group)
        self._emit(active, group, now)

    def settle(
        self, active: ActiveRequest, group: StreamGroup, drawn: Draw | None, now: float
    ) -> None:
        """Take one group's token: stop rules, text, events."""
        output = active.outputs[group.choice]
        if drawn is not None and drawn.fault is not None:
            self._roster.blame(active, drawn.fault)
            return
        if drawn is None or drawn.is_faulty:
            if drawn is not None:
                _tell_unusable("model", group.request_id)
            self._roster.fail(active, InternalFault())
            return
        nudger = group.nudger
        if drawn.is_asking:
            assert nudger is not None
            group.ask(nudger.guide_ids)
            return
        if drawn.token < 0:
            output.note_yielded(drawn.yielded)
            slots = self._slots_of(group)
            reason = _NO_TOKEN[slots.blocked(group.slot)]
            is_conflict = reason is FinishReason.RULE_CONFLICT
            names = self._conflicting(active, group) if is_conflict else ()
            output.end_without_token(reason, names)
        else:
            self._take(active, group, drawn, now)
        self._emit(active, group, now)

    def listen(self, active: ActiveRequest, group: StreamGroup, row: Tensor) -> None:
        """Take the guide's next token: its best one."""
        nudger, guide, plan = group.nudger, group.guide, active.request.plan.guide
        assert nudger is not None
        assert guide is not None
        assert plan is not None
        best = row[: plan.stream.vocabulary.size].max(0)
        if not bool(best.values < torch.inf):
            _tell_unusable("guide", group.request_id)
            self._roster.fail(active, InternalFault())
            return
        token = int(best.indices)
        if not nudger.hear(token):
            guide.own.append(token)
        elif nudger.end is None:
            group.resume()
        elif not self._may_end(active, group):
            nudger.go_on()
            group.resume()
        else:
            reason = FinishReason.LOOP if nudger.end is End.LOOP else FinishReason.STOP_RULE
            active.outputs[group.choice].end_without_token(reason)
            self._emit(active, group, monotonic())

    def score(self, step: SchedulerStep, member: int, logits: Mapping[str, Tensor]) -> None:
        """Take the log-probabilities of a group's given tokens, and feed it the next ones."""
        group = step.ready[member]
        active = self._roster.of(group)
        scoring = group.scoring
        assert scoring is not None
        with self._roster.isolated(active):
            tokens = scoring.scored(group.num_rows)
            logprobs = self._sampler.score(
                step, member, tokens, logits, prepare=lambda: self._dictate(active, group)
            )
            if logprobs is None:
                _tell_unusable("model", group.request_id)
                self._roster.fail(active, InternalFault())
                return
            now = monotonic()
            first = scoring.num_scored
            forced = scoring.take_forced()
            event = TokensEvent(group.choice, first, list(tokens), "", logprobs, None, forced)
            self._roster.emit(active, event)
            output = active.outputs[group.choice]
            output.num_tokens += len(tokens)
            self._roster.note_token(active, output, now)
            feed = scoring.advance(len(tokens))
            group.commit(feed)
            group.num_rows = len(feed)
            if not feed:
                output.end_without_token(FinishReason.MAX_TOKENS)
                if active.request.program is not None:
                    slots = self._slots_of(group)
                    output.note_adherence(
                        Adherence(scoring.forbidden_position, slots.is_whole(group.slot))
                    )
                self._roster.end(active, group, now)

    def _take(self, active: ActiveRequest, group: StreamGroup, drawn: Draw, now: float) -> None:
        """Hand a drawn token to the choice, and those that are dictated after it."""
        output = active.outputs[group.choice]
        slots = self._slots_of(group)
        group.commit([drawn.token])
        if group.phrases is not None and self._postpone_end(active, group, drawn.token):
            return
        # Most are not: of them nothing needs to be asked.
        is_bound = slots.is_bound(group.slot)
        verdict = slots.settle(group.slot) if is_bound else Verdict.GO_ON
        num_tokens = len(group.output)
        if is_bound and verdict in _ENDS and num_tokens < active.request.plan.params.min_tokens:
            output.note_yielded(["min_tokens"])
        nudger = group.nudger
        if verdict is Verdict.RETRACT:
            group.rollback(1)
            if nudger is not None:
                nudger.reset()
            if slots.retract(group.slot):
                output.end_without_token(FinishReason.CONSTRAINT_CLOSED)
            return
        self._roster.note_token(active, output, now)
        is_forced = is_bound and slots.was_forced(group.slot)
        if is_forced:
            # Whether a row was read for it hangs on what else was asked for: it counts for nothing.
            in_force: Collection[int] = self._in_force(active, group, output.num_tokens)
        else:
            in_force = slots.in_force(group.slot, active.request.plan.text_scopes)
            if drawn.yielded:
                output.note_yielded(drawn.yielded)
        rollback = output.accept(
            drawn.token,
            drawn.logprobs,
            drawn.explanation,
            is_intervention=drawn.is_intervention and not is_forced,
            is_forced=is_forced,
            in_force=in_force,
            reason=_ENDS.get(verdict) if is_bound else None,
        )
        if nudger is not None and is_forced:
            nudger.reset()
        elif nudger is not None:
            nudger.taken(drawn.token)
        if rollback is not None:
            self._roll_back(group, rollback)
        elif is_bound or group.phrases is not None:
            self._take_forced(active, group)

    def _may_end(self, active: ActiveRequest, group: StreamGroup) -> bool:
        """Whether the guide may end a choice here: as the end of the text may be drawn."""
        slots = self._slots_of(group)
        is_whole = active.request.program is None or slots.is_whole(group.slot)
        return is_whole and len(group.output) >= int(slots.state.min_tokens[group.slot])

    def _conflicting(self, active: ActiveRequest, group: StreamGroup) -> list[str]:
        """The rules in force that never yield."""
        plan, slots = active.request.plan, self._slots_of(group)
        never = {
            place: rule
            for place, rule in enumerate(plan.recipe.rules)
            if rule.name in ("allowed_tokens", "allowed_scripts")
        }
        in_force = slots.in_force(group.slot, never)
        names = [rule.name for place, rule in never.items() if place in in_force]
        return [*names, *(["constraint"] if plan.recipe.constraint is not None else [])]

    def _take_forced(self, active: ActiveRequest, group: StreamGroup) -> None:
        """Hand a choice the tokens that rules or the constraint dictate now."""
        output, slots = active.outputs[group.choice], self._slots_of(group)
        # Where every token is asked about, each has a step of its own.
        is_asked = active.request.logprobs >= 0 or active.request.explain is not None
        while output.ending is None:
            self._dictate(active, group)
            forced = [] if is_asked else slots.take_forced(group.slot)
            if not forced:
                return
            group.commit(forced)
            if group.nudger is not None:
                group.nudger.reset()
            verdict = slots.settle(group.slot)
            for place, token in enumerate(forced, start=1):
                reason = _ENDS.get(verdict) if place == len(forced) else None
                rollback = output.accept(
                    token,
                    is_forced=True,
                    in_force=self._in_force(active, group, output.num_tokens),
                    reason=reason,
                )
                if rollback is not None:
                    self._roll_back(group, rollback)
                    return
                if output.ending is not None:
                    return

    def _dictate(self, active: ActiveRequest, group: StreamGroup) -> None:
        """Let a phrase come that is due."""
        slots = self._slots_of(group)
        if group.phrases is not None and not slots.pending(group.slot):
            due = group.phrases.due(len(slots.output(group.slot)))
            slots.dictate(group.slot, active.request.plan.vocabulary, due)

    def _in_force(self, active: ActiveRequest, group: StreamGroup, position: int) -> list[int]:
        """The rules over the text that count at a token that no row was read for."""
        scopes = active.request.plan.text_scopes
        if not scopes:
            return []
        inside = self._slots_of(group).is_in_constraint(group.slot)
        return [rule for rule, scope in scopes.items() if scope.holds_at(position, inside=inside)]

    def _postpone_end(self, active: ActiveRequest, group: StreamGroup, token: int) -> bool:
        """Whether the end of the text was drawn where a phrase must come first; now it will."""
        assert group.phrases is not None
        if token not in active.request.plan.eos_ids:
            return False
        slots = self._slots_of(group)
        if slots.was_forced(group.slot):
            return False
        phrase = group.phrases.ending(len(group.output) - 1)
        if not phrase:
            return False
        group.rollback(1)
        slots.rollback(group.slot, 1)
        slots.dictate(group.slot, active.request.plan.vocabulary, [*phrase, token])
        if group.nudger is not None:
            group.nudger.reset()
        self._take_forced(active, group)
        return True

    def _roll_back(self, group: StreamGroup, rollback: Rollback) -> None:
        slots = self._slots_of(group)
        count = len(group.output) - rollback.position
        group.rollback(count)
        slots.rollback(group.slot, count)
        slots.ban(group.slot, rollback.position, rollback.token, rollback.match)
        if group.phrases is not None:
            group.phrases.rollback(rollback.position)
        if group.nudger is not None:
            group.nudger.reset()

    def _slots_of(self, group: StreamGroup) -> Slots:
        return self._slots[group.streams[0].model]

    def _emit(self, active: ActiveRequest, group: StreamGroup, now: float) -> None:
        """Hand on what became final; end the choice, and the request, if that was all."""
        output = active.outputs[group.choice]
        event = output.take()
        if event is not None:
            self._roster.emit(active, event)
        if output.ending is not None:
            self._roster.end(active, group, now)


def _tell_unusable(whose: str, request_id: str) -> None:
    text = "request %s: the %s gave no usable logits"
    _LOG.error(text, request_id, whose, extra=about(request_id))
