"""What other variants would have drawn on a request's own rows, followed to the request's end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bosal_decoding.explanation import Explanation, OtherDraw
from bosal_server.engine.request import TokensEvent
from bosal_server.experiments.records import Pair, PairKind

__all__ = ["Held", "HeldDraws"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A variant that a request under another is held against; one of the two is the control."""

    # Of the two the one that is not the control: its place among the experiment's sides.
    variant: int
    # Place among the explanations' other draws; None: the other reads rows this request has not.
    place: int | None
    # Whether equal draws make equal answers, and the other's requests can be held against this
    # one likewise: only then is a request without a difference untouched in both.
    is_symmetric: bool


@dataclass(slots=True)
class _Against:
    """One variant's draws so far."""

    held: Held
    num_changed: int = 0
    divergence: float = 0.0
    # Where each choice parts first: position, token served, the other's draw.
    parted: dict[int, tuple[int, int, OtherDraw | None]] = field(default_factory=dict)

    def note(self, choice: int, position: int, token: int, one: Explanation | None) -> None:
        if one is None:
            # Nothing was drawn: a rule or the constraint forced it, in the other too if it has
            # the same.
            if not self.held.is_symmetric:
                self.parted.setdefault(choice, (position, token, None))
            return
        assert self.held.place is not None
        draw = one.others[self.held.place]
        self.divergence += draw.divergence
        if draw.token != token:
            self.num_changed += 1
            self.parted.setdefault(choice, (position, token, draw))


class HeldDraws:
    """Follows one request; `is_control` says whether it is served the control."""

    def __init__(
        self,
        held: Sequence[Held],
        *,
        is_control: bool,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self._is_control = is_control
        self._token_bytes = token_bytes
        self._all = [_Against(one) for one in held]
        self._num_tokens = 0

    def note(self, event: TokensEvent) -> None:
        """Take in tokens that the client gets."""
        explanations = event.explanations or [None] * len(event.token_ids)
        self._num_tokens += sum(one is not None for one in explanations)
        for against in self._all:
            if against.held.place is None:
                continue
            for position, (token, one) in enumerate(
                zip(event.token_ids, explanations, strict=True), event.first_position
            ):
                against.note(event.choice, position, token, one)

    def doses(self) -> dict[str, float]:
        """Return how far the served text's draws are from the control's; of the control, 0."""
        if not self._num_tokens:
            return {}
        if self._is_control:
            return {"changed_share": 0.0, "kl_dose": 0.0}
        found: dict[str, float] = {}
        for against in self._all:
            if against.held.place is not None:
                found["changed_share"] = against.num_changed / self._num_tokens
                dose = against.divergence / self._num_tokens
                if dose < float("inf"):
                    found["kl_dose"] = dose
        return found

    def pairs(self) -> list[Pair]:
        """Return what was found, one for each variant."""
        return [self._pair(one) for one in self._all]

    def _pair(self, against: _Against) -> Pair:
        held = against.held
        if held.place is None:
            return Pair(kind=PairKind.HELD, variant=held.variant, is_known=False)
        if not against.parted:
            return Pair(kind=PairKind.HELD, variant=held.variant, is_touched=not held.is_symmetric)
        position, token, draw = against.parted[min(against.parted)]
        served = self._token_bytes(token)
        other = b"" if draw is None or draw.token is None else self._token_bytes(draw.token)
        control, variant = (served, other) if self._is_control else (other, served)
        return Pair(
            kind=PairKind.HELD,
            variant=held.variant,
            position=position,
            control_token=control,
            token=variant,
            cause="RULE",
            rules=() if draw is None else draw.rules,
        )
