"""A vocabulary as large as today's, grown like one: random words, numbers, brackets, characters."""

import random
from itertools import cycle
from typing import Any, Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# By how often they occur in words.
_LETTERS: Final = "etaoinshrdlucmfwypvbgkjqxz"
_WEIGHTS: Final = [1 / (place + 1) for place in range(len(_LETTERS))]
_MARKS: Final = (
    '{"', '":', '",', '"}', '"]', '["', "},", "],", "()", "://", "\n\n", "  ", "    ", " {", ' "',
    "==", "->", "//", "/*", "*/", "...", ", ", ". ", ": ", "\r\n", "--", "++", "</", "/>",
)  # fmt: skip
# First character and how many: Cyrillic, kana, ideographs, faces.
_SCRIPTS: Final = ((0x410, 64), (0x3041, 86), (0x4E00, 3000), (0x1F600, 64))
_MAX_LETTERS: Final = 12


def wide_tokenizer(size: int, *, seed: int = 0) -> Any:
    """Return a byte-level BPE tokenizer of `size` entries, random and always the same.

    Half of its tokens have 7 bytes or fewer, half of its words begin with a blank, and nearly every
    token is whole characters of UTF-8.
    """
    growth = _Growth(seed)
    for mark in _MARKS:
        growth.spell(mark)
    for number in range(1000):
        growth.spell(str(number))
    for first, count in _SCRIPTS:
        for place in range(count):
            growth.spell(chr(first + place))
    growth.words(size - 1)
    backend = Tokenizer(models.BPE(vocab=growth.vocabulary("<|endoftext|>"), merges=growth.merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


class _Growth:
    """Tokens, each but the bytes made of a token before it and a byte."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._tokens: dict[str, int] = {
            byte: place for place, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
        }
        self.merges: list[tuple[str, str]] = []
        self._spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def vocabulary(self, end: str) -> dict[str, int]:
        return {**self._tokens, end: len(self._tokens)}

    def spell(self, text: str) -> None:
        """Add a text, and what it begins with, byte by byte."""
        letters = self._spelled.pre_tokenize_str(text)[0][0]
        for end in range(1, len(letters)):
            self._add(letters[:end], letters[end])

    def words(self, size: int) -> None:
        """Let words grow by letters until there are `size` tokens."""
        letters = [*_LETTERS, *_LETTERS.upper()]
        for letter in letters:
            self._add("Ġ", letter)
        kinds = (letters, ["Ġ" + letter for letter in letters])
        for words in cycle(kinds):
            if len(self._tokens) >= size:
                return
            # Now and then the shorter of two, or most would be long.
            word = min(self._random.choices(words, k=self._random.choice((1, 2))), key=len)
            [letter] = self._random.choices(_LETTERS, _WEIGHTS)
            if len(word) < _MAX_LETTERS and self._add(word, letter):
                words.append(word + letter)

    def _add(self, token: str, byte: str) -> bool:
        if token + byte in self._tokens:
            return False
        self._tokens[token + byte] = len(self._tokens)
        self.merges.append((token, byte))
        return True
