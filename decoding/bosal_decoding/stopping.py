"""Stop strings and banned strings over the bytes of the output, whatever tokens spell them.

Rule 1: a match counts at the byte that completes it, so the result does not depend on how the
text was cut into tokens; of two that are complete at once a stop string wins over a banned one,
and the longer over the shorter.
Rule 2: bytes that a match could still take away are held: from where a stop string may have
begun, and, where a banned string may have begun, as much as was held before the token that began
it, because going back there opens what was undecided then.
"""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

from bosal_decoding.string_automaton import StringAutomaton
from bosal_decoding.watching import Watcher


@dataclass(frozen=True, slots=True, kw_only=True)
class StopMatch:
    """The text ends at byte `start`, because of `string` there or of a rule that looked at it.

    `reason` is a name of the wire's finish reasons.
    """

    string: bytes
    start: int
    reason: str = "STOP_STRING"


@dataclass(frozen=True, slots=True, kw_only=True)
class BanMatch:
    """A banned string is complete; the token at output position `position` began it."""

    string: bytes
    position: int
    # The place of the rule that bans it, unless that always does.
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class OwnedWatcher:
    """A watcher, and the place of its rule in the recipe; None if it always looks."""

    watcher: Watcher
    owner: int | None = None


class TextStop:
    """Watches one choice's output text, token by token, and can go back."""

    def __init__(
        self,
        stops: StringAutomaton,
        bans: StringAutomaton,
        watchers: Sequence[OwnedWatcher] = (),
    ) -> None:
        self._stops = stops
        self._bans = bans
        self._watches = tuple((one.watcher.watch(), one) for one in watchers)
        self._tokens: list[int] = []
        self._text = bytearray()
        # After each token: length of the text, of its final part, and both automata's states.
        self._ends: list[int] = []
        self._finals: list[int] = []
        self._states: list[tuple[int, int]] = []
        self._stop: StopMatch | None = None
        self._num_taken = 0

    @classmethod
    def of(cls, stop_strings: Sequence[bytes], banned_strings: Sequence[bytes]) -> Self:
        """Watch for these strings."""
        return cls(StringAutomaton(stop_strings), StringAutomaton(banned_strings))

    @property
    def num_tokens(self) -> int:
        return len(self._ends)

    @property
    def stop(self) -> StopMatch | None:
        """The stop string that ended the text."""
        return self._stop

    @property
    def text(self) -> bytes:
        """All bytes fed and not taken back, cut where a stop string began."""
        return bytes(self._text[: len(self)])

    def __len__(self) -> int:
        """Length of the text in bytes."""
        return len(self._text) if self._stop is None else self._stop.start

    @property
    def num_final(self) -> int:
        """Leading bytes of the text that no match can take away any more."""
        if self._stop is not None:
            return self._stop.start
        return self._finals[-1] if self._finals else 0

    @property
    def num_held(self) -> int:
        """Bytes at the end of the text that a match could still take away."""
        return len(self) - self.num_final

    def feed(
        self,
        token_bytes: bytes,
        token: int = -1,
        in_force: Collection[int] = (),
        *,
        is_end: bool = False,
    ) -> StopMatch | BanMatch | None:
        """Append one token and its bytes; nothing counts behind a stop string.

        `is_end` is the end of the text, which ends it by itself: no watcher looks.

        `in_force` are the rules that count at this token, of those that do not always.

        A banned match asks for a rewind; a caller that cannot go back calls `keep`: a stop string
        may be complete further on in the same token, and no watcher has looked at it.
        """
        if self._stop is not None:
            return self._stop
        stop_state, ban_state = self._states[-1] if self._states else (0, 0)
        start = len(self._text)
        stops, bans = self._stops, self._bans
        ban: tuple[bytes, int] | None = None
        for end, byte in enumerate(token_bytes, start=start + 1):
            stop_state = stops.step(stop_state, byte)
            ban_state = bans.step(ban_state, byte)
            if (string := stops.found(stop_state, in_force)) is not None:
                self._stop = StopMatch(string=string, start=end - len(string))
                break
            if ban is None and (string := bans.found(ban_state, in_force)) is not None:
                ban = (string, end - len(string))
        self._text += token_bytes
        self._tokens.append(token)
        if self._watches and self._stop is None and ban is None and not is_end:
            final = self._finals[-1] if self._finals else 0
            self._stop = self._watch(len(token_bytes), in_force, final)
        self._ends.append(len(self._text))
        self._states.append((stop_state, ban_state))
        self._finals.append(self._final(stop_state, ban_state))
        if ban is not None:
            string, begin = ban
            rule = bans.owner(string, in_force)
            return BanMatch(string=string, position=self._token_at(begin), rule=rule)
        return self._stop

    def keep(self, in_force: Collection[int] = ()) -> StopMatch | None:
        """Let the last token stand although a banned string is complete; return what ends the text.

        `in_force` is as for `feed`.
        """
        if self._watches and self._stop is None:
            begin = self._ends[-2] if len(self._ends) > 1 else 0
            final = self._finals[-2] if len(self._finals) > 1 else 0
            self._stop = self._watch(self._ends[-1] - begin, in_force, final)
        return self._stop

    def rewind(self, num_tokens: int) -> None:
        """Take back the last tokens."""
        if not 0 <= num_tokens <= len(self._ends):
            raise ValueError(f"cannot take back {num_tokens} of {len(self._ends)} tokens")
        if num_tokens == 0:
            return
        del self._ends[-num_tokens:]
        del self._finals[-num_tokens:]
        del self._states[-num_tokens:]
        del self._tokens[-num_tokens:]
        del self._text[self._ends[-1] if self._ends else 0 :]
        for watch, _ in self._watches:
            watch.rewind(len(self._text))
        self._stop = None
        if self._num_taken > len(self._text):
            raise ValueError("text that was already taken cannot be taken back")

    def take(self) -> bytes:
        """The final bytes that were not taken before."""
        return self._take(self.num_final)

    def flush(self) -> bytes:
        """All bytes not taken before: the choice ends here and nothing is taken back."""
        return self._take(len(self))

    def _watch(self, num_new: int, in_force: Collection[int], final: int) -> StopMatch | None:
        """Ask the watchers whether the text ends; the earliest cut counts, behind what is final."""
        # Who did not look before may find an end in what has been given out.
        found = [
            StopMatch(string=cut.string, start=max(cut.start, final), reason=one.watcher.reason)
            for watch, one in self._watches
            if (one.owner is None or one.owner in in_force)
            and (cut := watch.look(self._text, num_new, self._tokens)) is not None
        ]
        return min(found, key=lambda match: match.start, default=None)

    def _take(self, end: int) -> bytes:
        taken = bytes(self._text[self._num_taken : end])
        self._num_taken = max(self._num_taken, end)
        return taken

    def _token_at(self, offset: int) -> int:
        """The output position of the token that holds the byte at `offset`."""
        return bisect_right(self._ends, offset)

    def _final(self, stop_state: int, ban_state: int) -> int:
        length = len(self._text)
        final = length - self._stops.depth[stop_state]
        for watch, _ in self._watches:
            final = min(final, length - watch.num_held(self._text))
        if ban_depth := self._bans.depth[ban_state]:
            position = self._token_at(length - ban_depth)
            final = min(final, self._finals[position - 1] if position else 0)
        return final
