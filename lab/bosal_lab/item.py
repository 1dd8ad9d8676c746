"""What an evaluation is made of: items to ask, answers to judge, scores, and a suite of items."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from bosal_client.requests import Message

__all__ = ["STOPPED", "VERDICTS", "Answer", "Item", "Score", "Scorer", "Split", "Suite"]

Split = Literal["dev", "test"]

# Finish reasons with which a model ends of itself, not because it was cut.
STOPPED = frozenset({"stop_token", "stop_string", "stop_rule", "constraint_complete"})

_ASPECTS = ("followed", "right", "stopped", "no_run_on", "no_repetition", "no_leak")

# Metrics that say yes or no.
VERDICTS = frozenset({"success", *_ASPECTS})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One instruction or conversation with what a scorer needs to judge the last answer.

    A user message that no assistant message follows is answered by the model; its answer stands
    in the conversation when the next user message is asked.
    """

    id: str
    category: str
    split: Split
    messages: tuple[Message, ...]
    # What the scorer reads; plain JSON values.
    checks: Mapping[str, Any] = field(default_factory=dict)
    # A right answer, if there is one to show or to take floors from.
    reference: str = ""
    # Items that share a cluster are not independent of each other. Empty: the item stands alone.
    cluster: str = ""

    @property
    def instruction(self) -> str:
        """The last thing asked."""
        return self.messages[-1].text

    @property
    def to_answer(self) -> tuple[int, ...]:
        """Places of the messages that the model answers."""
        roles = [*(message.role for message in self.messages), "user"]
        return tuple(
            place for place in range(len(self.messages)) if roles[place : place + 2] == ["user"] * 2
        )

    def asked(self, answers: Sequence[str]) -> tuple[Message, ...]:
        """Return the conversation up to the next message to answer, `answers` in their places."""
        said: list[Message] = []
        begin = 0
        for place, answer in zip(self.to_answer, answers, strict=False):
            said += [*self.messages[begin : place + 1], Message("assistant", answer)]
            begin = place + 1
        return (*said, *self.messages[begin : self.to_answer[len(answers)] + 1])

    def document(self) -> dict[str, Any]:
        """Return the item as plain JSON values."""
        return {
            "id": self.id,
            "category": self.category,
            "split": self.split,
            "messages": [[message.role, message.text] for message in self.messages],
            "checks": dict(self.checks),
            "reference": self.reference,
            "cluster": self.cluster,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's last answer to an item, as a scorer sees it."""

    text: str
    # The wire's name without its prefix: `stop_token`, `max_tokens`, …
    finish_reason: str = "stop_token"
    num_tokens: int = 0

    @property
    def has_stopped(self) -> bool:
        return self.finish_reason in STOPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a program found of one answer, aspect by aspect; None means not judged."""

    # The form that was asked for. None: no program could judge it, so there is no verdict.
    followed: bool | None
    # The content.
    right: bool | None = None
    stopped: bool | None = None
    no_run_on: bool | None = None
    no_repetition: bool | None = None
    no_leak: bool | None = None
    # A scorer's own numbers.
    details: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def success(self) -> bool | None:
        """Every judged aspect holds; None without a verdict on the form."""
        aspects = [getattr(self, name) for name in _ASPECTS]
        if False in aspects:
            return False
        return None if self.followed is None else True

    def metrics(self) -> dict[str, float | None]:
        """Return every judged aspect as a number, `success` first."""
        judged = {name: getattr(self, name) for name in _ASPECTS}
        found: dict[str, float | None] = {
            "success": None if self.success is None else float(self.success),
            "followed": None if self.followed is None else float(self.followed),
        }
        found |= {name: float(value) for name, value in judged.items() if value is not None}
        return found | dict(self.details)


class Scorer(Protocol):
    """Judges answers; the same answer always gets the same score."""

    # Part of the suite's version: a scorer that changed has a new one.
    @property
    def version(self) -> str: ...

    def score(self, item: Item, answer: Answer) -> Score: ...


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Items and the scorer that judges answers to them."""

    name: str
    items: tuple[Item, ...]
    scorer: Scorer

    @cached_property
    def version(self) -> str:
        """Hash of the items and the scorer's version: results of two versions do not mix."""
        document = [self.scorer.version, [item.document() for item in self.items]]
        text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def of(self, split: Split | None) -> tuple[Item, ...]:
        """Return the items of one split, or all."""
        return tuple(item for item in self.items if split in (None, item.split))
