"""What a batch's rules dictate: tokens that must come next, and bytes that must be spelled.

All of it is a function of a slot's output, so taking tokens back needs no undoing here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bosal_decoding.opening import UNOPENED, Opening
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import LegalTokens


@dataclass(slots=True)
class _Script:
    """What one slot must say."""

    vocabulary: Vocabulary
    opening: Opening
    # Output positions and the tokens that stand there and behind, in order.
    passages: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)

    def pending(self, position: int) -> tuple[int, ...]:
        """The tokens that must come at a position and behind it."""
        for start, tokens in self.passages:
            if start <= position < start + len(tokens):
                return tokens[position - start :]
        return ()

    def legal(self, output: Sequence[int]) -> list[int] | None:
        """The tokens that may come next; None if that is not dictated."""
        pending = self.pending(len(output))
        if pending:
            return [pending[0]]
        num_fixed = len(self.opening.token_ids)
        rest = self.opening.rest
        if not rest or len(output) - num_fixed >= len(rest):
            return None
        spelled = len(self.vocabulary.bytes_of(output[num_fixed:]))
        if spelled >= len(rest):
            return None
        found = list(self.vocabulary.ids_beginning(rest[spelled:]))
        for stop in self.opening.breaks:
            if stop > spelled:
                found += self.vocabulary.ids_spelling(rest[spelled:stop])
        return found


class Dictation:
    """The dictated slots of one pipeline; used by its thread."""

    def __init__(self, vocabulary_size: int) -> None:
        self._num_words = vocabulary_size // 32 + 1
        self._scripts: dict[int, _Script] = {}

    def add(self, slot: int, vocabulary: Vocabulary, opening: Opening) -> None:
        """Open a fresh choice's output."""
        self.free(slot)
        if opening != UNOPENED:
            self._scripts[slot] = _Script(vocabulary, opening)
            if opening.token_ids:
                self._scripts[slot].passages.append((0, opening.token_ids))

    def dictate(
        self, slot: int, vocabulary: Vocabulary, position: int, tokens: Sequence[int]
    ) -> None:
        """Let tokens come at an output position and behind it, whatever the model thinks."""
        if not tokens:
            return
        script = self._scripts.setdefault(slot, _Script(vocabulary, UNOPENED))
        script.passages.append((position, tuple(tokens)))

    def free(self, slot: int) -> None:
        self._scripts.pop(slot, None)

    def rollback(self, slot: int, num_tokens: int) -> None:
        """Forget what was dictated behind a slot's first tokens."""
        script = self._scripts.get(slot)
        if script is not None:
            script.passages = [one for one in script.passages if one[0] < max(num_tokens, 1)]

    def __contains__(self, slot: int) -> bool:
        """Whether anything was ever dictated to a slot's choice."""
        return slot in self._scripts

    def pending(self, slot: int, position: int) -> tuple[int, ...]:
        """The tokens that must come at a slot's position and behind it."""
        script = self._scripts.get(slot)
        return () if script is None else script.pending(position)

    def binds(self, slot: int, output: Sequence[int]) -> bool:
        """Whether something is dictated behind a slot's output."""
        script = self._scripts.get(slot)
        return script is not None and script.legal(output) is not None

    def within(
        self,
        legal: LegalTokens | None,
        slots: Sequence[int],
        outputs: Sequence[Sequence[int]],
    ) -> LegalTokens | None:
        """Narrow a batch's legal tokens, on the host, to what is dictated.

        `outputs` are those of all slots.

        A constraint that has one text before it may have it in other tokens. It allows what is
        dictated, as was checked before: tokens that are, stand; of bytes that are, its tokens do.
        """
        found = {
            place: (slot, tokens)
            for place, slot in enumerate(slots)
            if slot in self._scripts
            and (tokens := self._scripts[slot].legal(outputs[slot])) is not None
        }
        if not found:
            return legal
        rows: dict[int, Tensor] = {}
        if legal is not None:
            rows = dict(zip(legal.rows.tolist(), legal.bits, strict=True))
        for place, (slot, tokens) in found.items():
            dictated = self._row(tokens)
            if place in rows and not self.pending(slot, len(outputs[slot])):
                narrowed = rows[place] & dictated
                dictated = narrowed if bool(narrowed.any()) else rows[place]
            rows[place] = dictated
        return LegalTokens(torch.tensor(list(rows)), torch.stack(list(rows.values())))

    def _row(self, tokens: Sequence[int]) -> Tensor:
        flags = np.zeros(self._num_words * 32, np.uint8)
        flags[list(tokens)] = 1
        words = np.packbits(flags, bitorder="little").view(np.int32)
        return torch.from_numpy(words)
