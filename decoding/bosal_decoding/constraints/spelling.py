"""A vocabulary as constraints need it: which tokens may be emitted, and how bytes become tokens."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from bosal_decoding.constraints.program import MaskRow
from bosal_decoding.vocabulary import Vocabulary


def bit_of(token: int) -> np.int32:
    """The bit of a token within its word of a mask."""
    bit: np.int32 = np.array([1 << (token & 31)], np.uint32).view(np.int32)[0]
    return bit


class Spelling:
    """The tokens of a vocabulary that spell something, found by their bytes."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.token_bytes: Sequence[bytes] = vocabulary.token_bytes
        self.eos_ids = tuple(sorted(vocabulary.eos_ids))

    @property
    def num_words(self) -> int:
        """Words of a mask over this vocabulary, with room for an end that is the matcher's own."""
        return len(self.token_bytes) // 32 + 1

    @cached_property
    def ordinary(self) -> MaskRow:
        """The mask of all tokens that spell text: none is special, missing or an end."""
        flags = np.zeros(self.num_words * 32, np.uint8)
        flags[: len(self.token_bytes)] = [bool(spelled) for spelled in self.token_bytes]
        return np.packbits(flags, bitorder="little").view(np.int32)

    @cached_property
    def eos_bits(self) -> tuple[tuple[int, np.int32], ...]:
        """The word and the bit of every end of the text."""
        return tuple((token >> 5, bit_of(token)) for token in self.eos_ids)

    def allow_end(self, row: MaskRow) -> None:
        """Set the bits of the ends of the text."""
        for word, bit in self.eos_bits:
            row[word] |= bit

    @cached_property
    def single(self) -> tuple[int, ...]:
        """The token that spells each byte alone; -1 where there is none."""
        return tuple(self._ids.get(bytes([byte]), -1) for byte in range(256))

    def tokenize(self, data: bytes) -> list[int] | None:
        """Cover bytes with the longest tokens from the left; None where no token fits."""
        tokens = []
        start = 0
        while start < len(data):
            for end in range(min(len(data), start + self._longest), start, -1):
                token = self._ids.get(data[start:end])
                if token is not None:
                    break
            else:
                return None
            tokens.append(token)
            start = end
        return tokens

    def spell(self, data: bytes) -> list[int] | None:
        """Spell bytes one by one; None where a byte has no token of its own."""
        tokens = [self.single[byte] for byte in data]
        return None if -1 in tokens else tokens

    def encode(self, text: str) -> list[int]:
        """Tokenise a text that stands behind another, as the model would."""
        data = text.encode()
        bytes_of = self.vocabulary.bytes_of
        for lead in ("", "\n"):
            # Some tokenizers put a space before every text; behind a line feed it does no harm.
            tokens = self.vocabulary.encode_fragment(lead + text)
            while tokens and len(bytes_of(tokens)) > len(data):
                del tokens[0]
            if bytes_of(tokens) == data:
                return tokens
        return self.tokenize(data) or []

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        ids: dict[bytes, int] = {}
        for token, spelled in enumerate(self.token_bytes):
            if spelled:
                ids.setdefault(spelled, token)
        return ids

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._ids), default=0)
