"""One choice's output on its way to the caller: stop rules, text, and what is held back."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from bosal_decoding.detokenizer import Detokenizer
from bosal_decoding.explanation import Explanation, ExplanationSummary
from bosal_decoding.plan import Plan
from bosal_decoding.stopping import BanMatch, StopMatch
from bosal_server.engine.request import (
    Adherence,
    ChoiceEnding,
    FinishReason,
    PositionLogprobs,
    TokenLogprobs,
    TokensEvent,
)

# A choice that runs into its banned strings this often keeps what it draws.
_MAX_ROLLBACKS = 1000


@dataclass(frozen=True, slots=True)
class Rollback:
    """The tokens from `position` on spell a banned string; `token` may not stand there."""

    position: int
    token: int
    match: BanMatch = field(compare=False)


class ChoiceOutput:
    """Takes tokens as they are drawn; gives out events once nothing can take them back.

    Tokens wait with the text they belong to: a stop string may cut it, a banned string may take
    the tokens back.
    """

    def __init__(
        self,
        choice: int,
        plan: Plan,
        max_tokens: int,
        *,
        has_logprobs: bool = False,
        is_explained: bool = False,
        hidden: str = "",
    ) -> None:
        """`hidden` is what the tokens spell first that belongs to the prompt."""
        self.choice = choice
        self.num_tokens = 0
        self.ending: ChoiceEnding | None = None
        self.last_token_at: float | None = None
        self._token_bytes: Sequence[bytes] = plan.vocabulary.token_bytes
        self._eos_ids = plan.eos_ids
        self._max_tokens = max_tokens
        self._stop = plan.text_stop() if plan.watches_text else None
        self._detokenizer = Detokenizer(plan.recipe.scaffold.lead)
        self._held_ids: list[int] = []
        self._held_ends: list[int] = []  # byte offset in the text behind each held token
        self._num_bytes = 0
        self._num_given = 0  # of these, as text
        self._num_hidden = len(hidden.encode())
        self._num_spelled = 0  # bytes of all tokens, hidden ones included
        self._text = ""
        self._logprobs = TokenLogprobs() if has_logprobs else None
        self._explanations: list[Explanation | None] = []
        self._summary = ExplanationSummary() if is_explained else None
        self._bans: set[tuple[int, int]] = set()
        self._num_rollbacks = 0
        self._yielded: dict[str, None] = {}
        self._conflicting: tuple[str, ...] = ()
        # By output position, where there are other streams: they had a say.
        self._interventions: list[bool] | None = [] if len(plan.all_streams) > 1 else None
        self._forced: list[int] = []  # output positions among the held tokens

    def accept(
        self,
        token: int,
        logprobs: PositionLogprobs | None = None,
        explanation: Explanation | None = None,
        *,
        is_intervention: bool = False,
        is_forced: bool = False,
        in_force: Collection[int] = (),
        reason: FinishReason | None = None,
    ) -> Rollback | None:
        """Take the next token; sets `ending` if it is the last. A Rollback has been done here.

        `is_forced` marks a token that the constraint dictated, `reason` one that it ends with.
        `in_force` are the rules over the text that count here, of those that do not always.
        """
        if is_forced:
            self._forced.append(self.num_tokens)
        self.num_tokens += 1
        if self._interventions is not None:
            self._interventions.append(is_intervention)
        self._held_ids.append(token)
        if self._summary is not None:
            self._explanations.append(explanation)
        if logprobs is not None:
            assert self._logprobs is not None
            self._logprobs.append(logprobs)
        is_eos = token in self._eos_ids
        spelling = b"" if is_eos else self._spelling(token)
        hidden = max(self._num_hidden - self._num_spelled, 0)
        self._num_spelled += len(spelling)
        spelling = spelling[hidden:]
        if self._stop is None:
            self._text += self._detokenizer.feed(spelling)
        else:
            self._num_bytes += len(spelling)
            self._held_ends.append(self._num_bytes)
            match = self._stop.feed(spelling, token, in_force, is_end=is_eos)
            if isinstance(match, BanMatch):
                rollback = self._roll_back(match)
                if rollback is not None:
                    return rollback
                match = self._stop.keep(in_force)
            if isinstance(match, StopMatch):
                self._end(FinishReason(match.reason), match.string.decode(errors="replace"))
                return None
        if reason is not None:
            self._end(reason)
        elif is_eos:
            self._end(FinishReason.STOP_TOKEN)
        elif self.num_tokens >= self._max_tokens:
            self._end(FinishReason.MAX_TOKENS)
        return None

    def note_yielded(self, rules: Sequence[str]) -> None:
        """Remember rules that had to yield because nothing legal was left."""
        self._yielded.update(dict.fromkeys(rules))

    def end_without_token(
        self, reason: FinishReason, conflicting_rules: Sequence[str] = ()
    ) -> None:
        """End the choice because no token could be drawn, and say which rules left none."""
        self._conflicting = tuple(conflicting_rules)
        self._end(reason)

    def note_adherence(self, adherence: Adherence) -> None:
        """Say of a given text, which has ended, how it stands to its constraint."""
        assert self.ending is not None
        self.ending = replace(self.ending, adherence=adherence)

    def take(self) -> TokensEvent | None:
        """Return what became final since the last call; everything, once the choice has ended."""
        text = self._take_text()
        count = self._count_final()
        if not count and not text:
            return None
        behind = self._behind()
        ids, self._held_ids = self._held_ids[:count], self._held_ids[count:]
        del self._held_ends[:count]
        first = self.num_tokens - len(self._held_ids) - count
        logprobs = self._logprobs.take(count) if self._logprobs is not None else None
        forced: tuple[int, ...] = ()
        if self._forced:
            num_forced = bisect_left(self._forced, first + count)
            forced = tuple(self._forced[:num_forced])
            del self._forced[:num_forced]
        explanations = None
        if self._summary is not None:
            explanations = self._explanations[:count]
            del self._explanations[:count]
            self._summary.add(one for one in explanations if one is not None)
        return TokensEvent(self.choice, first, ids, text, logprobs, explanations, forced, behind)

    def _take_text(self) -> str:
        if self._stop is not None:
            data = self._stop.take() if self.ending is None else self._stop.flush()
            self._num_given += len(data)
            self._text += self._detokenizer.feed(data)
        if self.ending is not None:
            self._text += self._detokenizer.flush()
        text, self._text = self._text, ""
        return text

    def _behind(self) -> str:
        """Return what the last tokens spell behind the end of the text, if it was cut."""
        if self._stop is None or self.ending is None or self._num_bytes == self._num_given:
            return ""
        count = self._num_bytes - self._num_given
        spelled = b"".join(map(self._spelling, self._held_ids))
        return spelled[-count:].decode(errors="replace")

    def _count_final(self) -> int:
        if self._stop is None or self.ending is not None:
            return len(self._held_ids)
        return bisect_right(self._held_ends, self._stop.num_final)

    def _spelling(self, token: int) -> bytes:
        # The head of a model may have rows for which its tokenizer has no token.
        return self._token_bytes[token] if token < len(self._token_bytes) else b""

    def _roll_back(self, match: BanMatch) -> Rollback | None:
        """Take back all tokens from a match on; None if the ban there has already yielded."""
        assert self._stop is not None
        position = match.position
        # What is forced stands; the first token behind it could have been another.
        while position < self.num_tokens and position in self._forced:
            position += 1
        count = self.num_tokens - position
        assert count <= len(self._held_ids), "a token that was given out cannot be taken back"
        token = self._held_ids[-count] if count else -1
        if not count or (position, token) in self._bans or self._num_rollbacks >= _MAX_ROLLBACKS:
            self.note_yielded(["banned_strings"])
            return None
        self._num_rollbacks += 1
        # Bans behind this position were about a text that is gone.
        self._bans = {ban for ban in self._bans if ban[0] <= position}
        self._bans.add((position, token))
        self._stop.rewind(count)
        self._num_spelled -= sum(len(self._spelling(one)) for one in self._held_ids[-count:])
        del self._held_ids[-count:]
        del self._held_ends[-count:]
        del self._explanations[-count:]
        self._num_bytes = len(self._stop)
        self.num_tokens = position
        del self._forced[bisect_left(self._forced, position) :]
        if self._interventions is not None:
            del self._interventions[position:]
        if self._logprobs is not None:
            self._logprobs.drop_last(count)
        return Rollback(position, token, match)

    def _end(self, reason: FinishReason, matched_stop: str = "") -> None:
        self.ending = ChoiceEnding(
            self.choice,
            reason,
            matched_stop,
            self.num_tokens,
            tuple(self._yielded),
            self._summary,
            None if self._interventions is None else sum(self._interventions),
            conflicting_rules=self._conflicting,
        )
