"""How an output is opened: tokens that its recipe dictates, and the prompt's end taken back.

A prompt that ends where its author stopped typing is cut into tokens there, as no longer text would
be, and a model never saw that. So the last tokens that a longer text could cut otherwise are taken
back, and the output begins with tokens that spell them and may go on (token healing). A text that
the answer begins with is cut together with the prompt, as if it had been typed there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from bosal_decoding.errors import UnfitContinuation
from bosal_decoding.vocabulary import Vocabulary, common_prefix

# Characters before the end that are tokenised anew; what a continuation changes lies well within.
_TAIL_CHARS: Final = 256
# Continuations before which tokenizers cut a text differently though no token reaches over.
_PROBES: Final = ("a", "1", ".", " a", "\n", "'s", "é", "中")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What an output begins with, whatever the model thinks."""

    token_ids: tuple[int, ...] = ()
    # Bytes that the tokens behind those spell, or begin with, and the tokens that spelled them.
    rest: bytes = b""
    cut: tuple[int, ...] = ()
    # Where within `rest` a token may end.
    breaks: frozenset[int] = frozenset()
    # What the output begins with that belongs to the prompt, not to the answer's text.
    hidden: str = ""

    @property
    def least_tokens(self) -> int:
        """How many tokens it takes at least."""
        return len(self.token_ids) + bool(self.rest)


UNOPENED: Final = Opening()


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """How the outputs of a plan are opened."""

    # What every answer starts with, the space that the scaffold leaves before it included.
    answer: str = ""
    # Whether the end of the prompt, or of that, may be cut anew.
    heals_prompt: bool = False
    heals_answer: bool = False

    @property
    def is_used(self) -> bool:
        return bool(self.answer) or self.heals_prompt

    def open(
        self,
        vocabulary: Vocabulary,
        prompt: str,
        prompt_ids: Sequence[int],
        others: Sequence[Sequence[int]] = (),
    ) -> tuple[int, Opening] | None:
        """Return how many of a prompt's tokens stay, and how an output behind them begins.

        The first always stays. `others` are prompts of coupled streams: their last tokens go where
        the prompt's do. None: they end with others, so that the prompt cannot be healed.

        Raises:
            UnfitContinuation: no tokens spell just the answer behind the prompt.
        """
        kept, opening = self._open(vocabulary, prompt, prompt_ids, floor=1)
        cut = list(prompt_ids[kept:])
        if not cut or all(list(ids[1:][-len(cut) :]) == cut for ids in others):
            return kept, opening
        if self.heals_prompt:
            return None
        return self._open(vocabulary, prompt, prompt_ids, floor=len(prompt_ids))

    def _open(
        self, vocabulary: Vocabulary, prompt: str, prompt_ids: Sequence[int], *, floor: int
    ) -> tuple[int, Opening]:
        """Open behind at least `floor` of the prompt's tokens."""
        text, wanted = prompt + self.answer, self.answer.encode()
        ids, offsets = vocabulary.encode_with_offsets(text)
        settled, breaks = len(ids), frozenset[int]()
        if self.heals_prompt or self.heals_answer:
            settled, breaks = _settled(vocabulary, text, ids, floor)
        kept = min(common_prefix(prompt_ids, ids), settled)
        # What is taken back is text: no character is cut.
        while kept > floor and _is_within(offsets, kept):
            kept -= 1
        tail = vocabulary.bytes_of(ids[kept:])
        is_cut = kept < floor or _is_within(offsets, kept)
        if is_cut or not text.encode().endswith(tail) or not tail.endswith(wanted):
            # The prompt's tokens reach into the answer, all of it is a character that its first
            # token begins, or the tokenizer rewrites what it reads.
            alone = vocabulary.spell(self.answer)
            if alone is None:
                raise UnfitContinuation
            return len(prompt_ids), Opening(token_ids=tuple(alone))
        return kept, Opening(
            token_ids=tuple(ids[kept:settled]),
            rest=vocabulary.bytes_of(ids[settled:]),
            cut=tuple(ids[settled:]),
            breaks=breaks,
            hidden=tail[: len(tail) - len(wanted)].decode(),
        )


def _is_within(offsets: Sequence[tuple[int, int]], place: int) -> bool:
    """Whether a token begins within a character that the one before it has begun."""
    return 0 < place < len(offsets) and offsets[place][0] < offsets[place - 1][1]


def _settled(
    vocabulary: Vocabulary, text: str, ids: Sequence[int], floor: int
) -> tuple[int, frozenset[int]]:
    """Count the leading tokens that any longer text begins with, too; at least `floor`.

    And say at which bytes behind them a longer text may have a token end.
    """
    for tail in dict.fromkeys((text[-_TAIL_CHARS:], text)):
        whole = vocabulary.encode_fragment(tail)
        parts = [vocabulary.encode_fragment(tail[:end]) for end in _ends(vocabulary, tail)]
        probes = [vocabulary.encode_fragment(tail + probe) for probe in _PROBES]
        same = min(common_prefix(whole, other) for other in (*parts, *probes))
        settled = max(len(ids) - len(whole) + same, floor)
        first = settled + len(whole) - len(ids)
        if first >= 0 and list(ids[settled:]) == whole[first:]:
            break
    else:
        return len(ids), frozenset()
    rest = vocabulary.bytes_of(whole[first:])
    breaks: set[int] = set()
    for path in (whole, *parts):
        lengths = [len(vocabulary.token_bytes[token]) for token in path[first:]]
        if path[:first] == whole[:first] and rest.startswith(vocabulary.bytes_of(path[first:])):
            breaks.update(accumulate(lengths))
    return settled, frozenset(breaks - {len(rest)})


def _ends(vocabulary: Vocabulary, text: str) -> Iterator[int]:
    """Where a token could begin that reaches over the end of a text, in characters."""
    suffix = b""
    for start in range(len(text) - 1, -1, -1):
        own = text[start].encode()
        suffix = own + suffix
        if len(suffix) - len(own) >= vocabulary.longest:
            return
        # A token may begin within a character.
        if any(vocabulary.is_extended(suffix[byte:]) for byte in range(len(own))):
            yield start
