"""IFEval over a data file of the user's, judged by the checkers of the package lm-eval.

Nothing is downloaded: a kind of instruction whose checker needs a resource that is not on this
machine is not scored, and counted as such.
"""

import contextlib
import importlib
import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from bosal_client.requests import Message
from bosal_lab.evaluation_errors import ArmError, PromptError
from bosal_lab.item import Answer, Item, Score, Suite
from bosal_lab.prompts import lines

__all__ = ["IfevalScorer", "load_checkers", "read_ifeval"]

_FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")
# What the checkers of two kinds of instruction look up; `nltk.download("punkt_tab")` brings it.
_RESOURCE = "tokenizers/punkt_tab"


def read_ifeval(path: Path) -> Suite:
    """Read IFEval's own format: key, prompt, instruction_id_list, kwargs."""
    scorer = IfevalScorer(load_checkers())
    items = []
    for number, line in lines(path):
        missing = [field for field in _FIELDS if field not in line]
        if missing:
            raise PromptError(path, number, f"no {missing[0]!r}: not IFEval's format")
        kinds, kwargs = line["instruction_id_list"], line["kwargs"]
        if not (isinstance(kinds, list) and isinstance(kwargs, list) and len(kinds) == len(kwargs)):
            raise PromptError(path, number, "kwargs must match instruction_id_list")
        items.append(
            Item(
                id=str(line["key"]),
                category=kinds[0].partition(":")[0] if len(kinds) == 1 else "several",
                split="test",
                messages=(Message("user", line["prompt"]),),
                checks={"instruction_id_list": kinds, "kwargs": kwargs},
            )
        )
    if not items:
        raise PromptError(path, None, "there is no prompt in it")
    return Suite(name="ifeval", items=tuple(items), scorer=scorer)


class Verdict(Protocol):
    """What lm-eval says of one response."""

    follow_instruction_list: list[bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkers:
    """lm-eval's functions."""

    version: str
    # Takes an example and a response.
    strict: Any
    loose: Any
    # Makes an example from key, instruction_id_list, prompt and kwargs.
    example: Any
    # Whether the resource some kinds need is on this machine.
    has_resource: bool


def load_checkers() -> Checkers:
    """Import lm-eval's checkers, which would download a resource if they could."""
    try:
        nltk = importlib.import_module("nltk")
        langdetect = importlib.import_module("langdetect")
        with _without_downloads(nltk):
            utils = importlib.import_module("lm_eval.tasks.ifeval.utils")
    except ImportError as error:
        raise ArmError(f"suite ifeval: {error}; pip install 'bosal[ifeval]'") from error
    # Detection draws at random otherwise: the same answer must always get the same score.
    langdetect.DetectorFactory.seed = 0
    try:
        nltk.data.find(_RESOURCE)
        has_resource = True
    except LookupError:
        has_resource = False
    return Checkers(
        version=version("lm_eval"),
        strict=utils.test_instruction_following_strict,
        loose=utils.test_instruction_following_loose,
        example=utils.InputExample,
        has_resource=has_resource,
    )


@contextlib.contextmanager
def _without_downloads(nltk: Any) -> Iterator[None]:
    """Let the import find what it looks for: a missing resource shows when it is used."""
    find, download = nltk.data.find, nltk.download
    nltk.data.find = lambda *_, **__: None
    nltk.download = lambda *_, **__: False
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        nltk.data.find, nltk.download = find, download


class IfevalScorer:
    """Success is IFEval's strict prompt-level accuracy; how an answer ended does not count."""

    def __init__(self, checkers: Checkers) -> None:
        self._checkers = checkers

    @property
    def version(self) -> str:
        resource = "with" if self._checkers.has_resource else "without"
        return f"ifeval 1, lm-eval {self._checkers.version}, {resource} {_RESOURCE}"

    def score(self, item: Item, answer: Answer) -> Score:
        kinds = item.checks["instruction_id_list"]
        strict, loose = (
            [
                self._follows(check, item, kind, kwargs, answer.text)
                for kind, kwargs in zip(kinds, item.checks["kwargs"], strict=True)
            ]
            for check in (self._checkers.strict, self._checkers.loose)
        )
        details: dict[str, float | None] = {"loose": _number(_all(loose))}
        for name, verdicts in (("strict instructions", strict), ("loose instructions", loose)):
            judged = [verdict for verdict in verdicts if verdict is not None]
            details[name] = sum(judged) / len(judged) if judged else None
        for kind in dict.fromkeys(kinds):
            of_kind = [verdict for one, verdict in zip(kinds, strict, strict=True) if one == kind]
            details[kind] = _number(_all(of_kind))
        return Score(followed=_all(strict), details=details)

    def _follows(
        self, check: Any, item: Item, kind: str, kwargs: Mapping[str, Any], text: str
    ) -> bool | None:
        """Judge one instruction; None if its checker cannot work here."""
        example = self._checkers.example(
            key=item.id, instruction_id_list=[kind], prompt=item.instruction, kwargs=[kwargs]
        )
        state = random.getstate()
        random.seed(0)  # A checker draws what its arguments leave open.
        try:
            verdict: Verdict = check(example, text)
        except Exception:  # A checker's own failure says nothing of the answer.
            return None
        finally:
            random.setstate(state)
        return bool(verdict.follow_instruction_list[0])


def _all(verdicts: list[bool | None]) -> bool | None:
    """False if any is, else None if any is."""
    if False in verdicts:
        return False
    return None if None in verdicts else True


def _number(verdict: bool | None) -> float | None:
    return None if verdict is None else float(verdict)
