"""The plug-ins of a batch: whose turn it is, their states, and whose fault it was."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import torch
from torch import Tensor

from bosal_decoding.errors import PluginFault
from bosal_decoding.rules import PluginPart, RuleStage, Turn
from bosal_decoding.watchdog import Overtime, Watchdog
from bosal_kernels import Region

# How long the rows of a step may wait for one plug-in.
PLUGIN_SECONDS: Final = 1.0


@dataclass(slots=True, eq=False)
class _Actor:
    """One plug-in of one choice."""

    part: PluginPart
    history: Sequence[int]
    state: Any = None
    # Tokens that the state has seen; -1: it is still to be made.
    num_seen: int = -1

    def turn(self, output: Sequence[int]) -> Turn:
        """Bring the state up to the output."""
        rule: Any = self.part.rule
        if self.num_seen < 0:
            self.state = rule.begin(self.part.prepared, self.history)
            self.num_seen = 0
        if len(output) > self.num_seen:
            self.state = rule.advance(self.state, output[self.num_seen :])
            self.num_seen = len(output)
        return Turn(rule, self.state, output)

    def reset(self) -> None:
        self.state, self.num_seen = None, -1


# A plug-in's turn at a row: the row's place in the batch, its slot, its output.
_Due = tuple[_Actor, int, int, tuple[int, ...]]


class PluginSlots:
    """The plug-ins of a pipeline's choices, by slot."""

    def __init__(self, seconds: float = PLUGIN_SECONDS) -> None:
        """Give each plug-in so much time for a step."""
        self._seconds = seconds
        self._actors: dict[int, list[_Actor]] = {}
        self._watchdogs: dict[Any, Watchdog] = {}
        self._faults: dict[int, PluginFault] = {}
        self._spent: dict[str, float] = {}

    def admit(self, slot: int, parts: Iterable[PluginPart], history: Sequence[int]) -> None:
        """Give a slot to a new choice."""
        self.free(slot)
        actors = [_Actor(part, tuple(history)) for part in parts]
        if actors:
            self._actors[slot] = actors

    def free(self, slot: int) -> None:
        self._actors.pop(slot, None)
        self._faults.pop(slot, None)

    def rollback(self, slot: int) -> None:
        """Forget states that have seen tokens which are gone."""
        for actor in self._actors.get(slot, ()):
            actor.reset()

    def are_used(self, slots: Sequence[int]) -> bool:
        """Whether any of these slots has a plug-in."""
        return bool(self._actors) and any(slot in self._actors for slot in slots)

    def is_gated(self, slots: Sequence[int]) -> bool:
        """Whether a plug-in of these slots depends on the model's certainty."""
        return any(
            actor.part.scope.is_gated for slot in slots for actor in self._actors.get(slot, ())
        )

    def edit(
        self,
        rows: Tensor,
        slots: Sequence[int],
        outputs: Sequence[tuple[int, ...]],
        are_inside: Sequence[bool],
        certainty: tuple[Sequence[float], Sequence[float]] | None,
    ) -> None:
        """Change logits [B, V] in place, of each slot as its plug-ins say; they see V tokens.

        `are_inside`: of their constraint; `certainty`: the greatest probability and the entropy of
        the model's rows, where `is_gated`. A row whose plug-in fails stays as it is.
        """
        due: dict[Any, list[_Due]] = {}
        for place, slot in enumerate(slots):
            output = outputs[place]
            for actor in self._actors.get(slot, ()):
                self._spent.setdefault(actor.part.rule.name, 0.0)
                gate = (
                    (0.0, 0.0) if certainty is None else (certainty[0][place], certainty[1][place])
                )
                if _holds(actor.part, len(output), are_inside[place], gate):
                    turn = (actor, place, slot, output)
                    due.setdefault(type(actor.part.rule), []).append(turn)
        before = rows.clone() if len(due) > 1 else rows
        # By name, so that no row's sum depends on which rows are beside it.
        for kind in sorted(due, key=lambda kind: str(kind.name)):
            begin = perf_counter()
            for (_, place, _, _), change in self._changes(kind, before, due[kind]):
                if change.dtype == torch.bool:
                    rows[place].masked_fill_(change, -torch.inf)
                else:
                    rows[place] += change
            self._spent[kind.name] += perf_counter() - begin

    def take_faults(self) -> dict[int, PluginFault]:
        """Return the slots whose plug-in failed since the last call."""
        faults, self._faults = self._faults, {}
        return faults

    def take_seconds(self) -> dict[str, float]:
        """Return what each plug-in of the batches since the last call took."""
        spent, self._spent = self._spent, {}
        return spent

    def close(self) -> None:
        for watchdog in self._watchdogs.values():
            watchdog.close()

    def _changes(self, kind: Any, rows: Tensor, due: Sequence[_Due]) -> list[tuple[_Due, Tensor]]:
        """Ask a plug-in for its changes to rows; each fault costs its own row alone."""
        index = torch.tensor([place for _, place, _, _ in due], device=rows.device)

        def ask() -> object:
            turns = [actor.turn(output) for actor, _, _, output in due]
            return kind.act(rows.index_select(0, index), turns)

        try:
            changes = self._watchdog(kind).run(ask, self._seconds)
            _check(kind, changes, (len(due), rows.shape[1]), rows.device)
        except Overtime as error:
            for one in due:
                self._blame(kind, one, str(error))
            return []
        except Exception as error:
            for actor, _, _, _ in due:
                actor.reset()
            if len(due) == 1:
                self._blame(kind, due[0], error)
                return []
            return [pair for one in due for pair in self._changes(kind, rows, [one])]
        assert isinstance(changes, Tensor)
        if changes.dtype == torch.bool:
            return list(zip(due, changes, strict=True))
        found = []
        for one, change, is_sound in zip(
            due, changes, changes.isfinite().all(1).tolist(), strict=True
        ):
            if is_sound:
                found.append((one, change))
            else:
                self._blame(kind, one, "it returned a weight that is not finite")
        return found

    def _blame(self, kind: Any, due: _Due, cause: Exception | str) -> None:
        fault = PluginFault(kind.name, kind.package, cause)
        if isinstance(cause, Exception):
            fault.__cause__ = cause
        self._faults.setdefault(due[2], fault)

    def _watchdog(self, kind: Any) -> Watchdog:
        if kind not in self._watchdogs:
            self._watchdogs[kind] = Watchdog(f"bosal-step-{kind.name}")
        return self._watchdogs[kind]


def _holds(part: PluginPart, position: int, is_inside: bool, gate: tuple[float, float]) -> bool:
    scope = part.scope
    if not scope.after <= position < scope.until:
        return False
    if scope.region is not Region.ANY and (scope.region is Region.INSIDE) != is_inside:
        return False
    top1, entropy = gate
    return not scope.is_gated or (top1 < scope.top1_below and entropy > scope.entropy_above)


def _check(kind: Any, changes: object, shape: tuple[int, int], device: torch.device) -> None:
    """Refuse what is no answer to the question."""
    if not isinstance(changes, Tensor):
        raise TypeError(f"act returned {type(changes).__name__}, not a tensor")
    wanted = torch.bool if kind.stage is RuleStage.MASK else torch.float32
    if tuple(changes.shape) != shape or changes.dtype != wanted or changes.device != device:
        got = f"{changes.dtype} {list(changes.shape)} on {changes.device}"
        raise ValueError(f"act returned {got}, not {wanted} {list(shape)} on {device}")
