"""Nudging: words of a guide where the base is unsure, exchanged as text.

A round begins where the base's best token is less likely than the threshold. The guide's next word
is taken; further words only while the base stays unsure and its best token does not begin the
word. The two need not share a tokenizer: each reads the answer in tokens of its own.

A guide that gives no word, or ends where the answer may not end, leaves that token to the base, so
that every turn of the base brings the answer on.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from bosal_decoding.streams import StreamPlan
from bosal_decoding.vocabulary import Vocabulary

# A word of more tokens of the guide is taken as far as it goes.
_MAX_WORD_TOKENS: Final = 24
# The same word, said or offered again, so often in a row is a loop.
_MAX_REPEATS: Final = 3
_WORD: Final = re.compile(r"\s*\S+(?=\s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidePlan:
    """Who nudges, and when."""

    stream: StreamPlan
    top1_below: float
    # The place of the rule in the recipe; None if it acts at every step.
    rule: int | None
    # The answer's bytes that the guide can follow: its tokens are at most as many.
    reserve_bytes: int
    # What stands between prompt and answer, for base and guide.
    lead: str
    guide_lead: str

    def num_reserved(self, prompt_tokens: int) -> int:
        """Tokens that the guide's sequence may take beyond its prompt."""
        return min(self.reserve_bytes, self.stream.context_tokens - prompt_tokens)


class Move(Enum):
    """What a nudged choice does at a step of its base."""

    DRAW = auto()  # the base's own token
    FORCE = auto()  # the next token of a word
    ASK = auto()  # nothing: the guide goes on


class End(Enum):
    """Why nudging ends an answer."""

    GUIDE = auto()  # the guide ended its own
    LOOP = auto()  # the same word again and again


class Nudger:
    """The nudging of one choice; its owner runs base and guide in turns."""

    def __init__(
        self, plan: GuidePlan, base: Vocabulary, num_reserved: int, *, hidden: str = ""
    ) -> None:
        """`hidden` is what the output begins with that belongs to the prompt."""
        self._plan = plan
        self._base = base
        self._guide = plan.stream.vocabulary
        self._num_reserved = num_reserved
        self._num_hidden = len(hidden.encode())
        self._forced: deque[int] = deque()
        # "" is no word: the base goes on by itself.
        self._offered: str | None = None
        self._word = ""
        # Whether a word has been taken since the base was last sure.
        self._is_in_round = False
        self._begins_answer = True
        self._heard = b""
        self._num_heard = 0
        self._last_word = ""
        self._num_repeats = 0
        self.end: End | None = None
        # The guide's tokens for the answer so far; set with Move.ASK.
        self.guide_ids: list[int] = []

    @property
    def forced(self) -> int:
        """The token that Move.FORCE is about."""
        return self._forced[0]

    @property
    def rule(self) -> int | None:
        """The rule that must be in force for a word to be taken; None if it always is."""
        return self._plan.rule

    def at_base(
        self, top1: float, best: int, output: Sequence[int], *, is_in_force: bool = True
    ) -> Move:
        """Decide on the base's row: its greatest probability, the token that has it.

        Where the rule is not in force the base counts as sure.
        """
        if self._forced:
            return Move.FORCE
        is_sure = top1 >= self._plan.top1_below or not is_in_force
        if self._offered is not None:
            word, self._offered = self._offered, None
            if not (self._is_in_round and (is_sure or self._begins(best, word))):
                self._forced.extend(self._base.spell(word) or ())
                self._word = word
            if not self._forced:
                self._is_in_round = False
                return Move.DRAW
            self._is_in_round = True
            return Move.FORCE
        if is_sure:
            self._is_in_round = False
            return Move.DRAW
        return Move.ASK if self._can_ask(output) else Move.DRAW

    def taken(self, token: int) -> None:
        """Note the token that a step of the base ended with; another than forced drops the word."""
        if not self._forced:
            return
        if self._forced.popleft() != token:
            self.reset()
        elif not self._forced:
            is_same = self._word == self._last_word
            self._num_repeats = self._num_repeats + 1 if is_same else 1
            self._last_word = self._word

    def reset(self) -> None:
        """Forget the word at hand."""
        self._forced.clear()
        self._offered = None
        self._is_in_round = False

    def hear(self, token: int) -> bool:
        """Take the guide's next token; True when it is the base's turn again."""
        is_end = token in self._guide.eos_ids
        if not is_end:
            self._heard += self._guide.token_bytes[token]
            self._num_heard += 1
        text = self._heard.decode(errors="ignore")
        word = _WORD.match(text)
        if word is not None:
            self._offer(word[0])
        elif not is_end and self._num_heard < _MAX_WORD_TOKENS:
            return False
        elif text.strip():
            self._offer(text)
        elif is_end:
            self.end = End.GUIDE
        else:
            self._offered = ""
        return True

    def go_on(self) -> None:
        """Let the base go on by itself where nudging would end an answer that may not end here."""
        self.end, self._offered = None, ""

    def _offer(self, word: str) -> None:
        if self._begins_answer:
            word = word.removeprefix(self._plan.guide_lead)
            if not word[:1].isspace():
                word = self._plan.lead + word
        if word == self._last_word and self._num_repeats + 1 >= _MAX_REPEATS:
            self.end = End.LOOP
        else:
            self._offered = word

    def _begins(self, token: int, word: str) -> bool:
        """Whether a token of the base is the beginning of a word."""
        spelling = self._base.token_bytes[token] if token < self._base.size else b""
        return bool(spelling.strip()) and word.strip().encode().startswith(spelling.strip())

    def _can_ask(self, output: Sequence[int]) -> bool:
        """Write the answer in the guide's tokens, if it is whole characters and not too long."""
        try:
            text = self._base.bytes_of(output)[self._num_hidden :].decode()
        except UnicodeDecodeError:
            return False
        self._begins_answer = not text
        text = text.removeprefix(self._plan.lead)
        ids = self._guide.spell(self._plan.guide_lead + text) if text else []
        if ids is None or len(ids) + _MAX_WORD_TOKENS > self._num_reserved:
            return False
        self.guide_ids = ids
        self._heard, self._num_heard = b"", 0
        return True
