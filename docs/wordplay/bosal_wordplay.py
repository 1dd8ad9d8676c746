"""Two rules for Bosal: write without some letters, and in alliteration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from bosal_decoding import Vocabulary
from bosal_decoding.rules import PluginRule, RuleStage, Turn


class Lipogram(PluginRule):
    """Forbids tokens; needs the tokenizer, but remembers nothing."""

    name = "lipogram"
    stage = RuleStage.MASK
    summary = "Write without some letters."
    formula = "z = -inf where the token has one of the letters, large or small"
    source = "Ernest Vincent Wright, Gadsby, 1939"

    letters: Annotated[str, Field(min_length=1, max_length=26)]
    """The letters to do without."""

    def prepare(self, vocabulary: Vocabulary) -> Tensor:
        spelled = (token.decode(errors="ignore").casefold() for token in vocabulary.token_bytes)
        unwanted = set(self.letters.casefold())
        return torch.tensor([bool(unwanted & set(text)) for text in spelled])

    @classmethod
    def act(cls, rows: Tensor, turns: Sequence[Turn]) -> Tensor:
        return torch.stack([turn.state for turn in turns]).to(rows.device)


@dataclass(frozen=True, slots=True)
class _Initials:
    """What a tokenizer's words begin with."""

    # By token, as it reads.
    texts: tuple[str, ...]
    # By letter: whether a token begins a word with it, [V].
    begins: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Heard:
    """What one choice has written."""

    initials: _Initials
    # The first letter of its last word.
    letter: str = ""


class Alliteration(PluginRule):
    """Adds weights; remembers the last word of each choice."""

    name = "alliteration"
    stage = RuleStage.SHAPE
    summary = "Begin words with the letter the word before began with."
    formula = "z = z + weight where the token begins a word with that letter"
    source = "Beowulf"

    weight: Annotated[float, Field(ge=0, le=100)] = 3.0
    """Added to the logits of such tokens."""

    def prepare(self, vocabulary: Vocabulary) -> _Initials:
        texts = tuple(token.decode(errors="ignore").casefold() for token in vocabulary.token_bytes)
        initials = [text[1] if text[:1] == " " and text[1:2].isalpha() else "" for text in texts]
        begins = {
            letter: torch.tensor([initial == letter for initial in initials])
            for letter in set(initials) - {""}
        }
        return _Initials(texts, begins)

    def begin(self, prepared: _Initials, history: Sequence[int]) -> _Heard:
        return _Heard(prepared)

    def advance(self, state: _Heard, tokens: Sequence[int]) -> _Heard:
        letter = state.letter
        for token in tokens:
            text = state.initials.texts[token] if token < len(state.initials.texts) else ""
            if text[:1] == " " and text[1:2].isalpha():
                letter = text[1]
        return _Heard(state.initials, letter)

    @classmethod
    def act(cls, rows: Tensor, turns: Sequence[Turn]) -> Tensor:
        weights = torch.zeros_like(rows)
        for row, turn in zip(weights, turns, strict=True):
            wanted = turn.state.initials.begins.get(turn.state.letter)
            if wanted is not None:
                row[wanted.to(rows.device)] = turn.rule.weight
        return weights
