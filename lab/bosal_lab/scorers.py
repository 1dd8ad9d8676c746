"""Programs that judge an answer to the suite: form, content, and a clean end."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Protocol

from bosal_lab.errors import UnknownNameError
from bosal_lab.item import Answer, Item, Score
from bosal_lab.phrases import YES_NO
from bosal_lab.telling import COUNTS

_LEAK = re.compile(
    r"<\||\|>|^\s*(?:Q|A|Question|Answer|User|Assistant|Reader|Almanac)\s?[:.]|^###?", re.MULTILINE
)
_IGNORANT = re.compile(
    r"no record|nothing is known|not known|unknown|do not know|don't know|no such", re.IGNORECASE
)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
_LONGEST = 60  # words


class Judge(Protocol):
    """Judges the form and the content of answers to one form of instruction."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Return (followed, right) for a stripped, non-empty text."""


def _says(text: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.IGNORECASE) is not None


def _sentences(text: str) -> int:
    return max(1, len(_SENTENCE_END.findall(text)))


class ValueJudge:
    """One value, in a phrase or a sentence."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for one short statement that says the value and no rival of it."""
        right = all(_says(text, value) for value in item.checks["expected"])
        right = right and not any(_says(text, value) for value in item.checks["wrong"])
        return "\n" not in text and _sentences(text) == 1, right


class YearJudge:
    """Four digits and nothing else."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for the bare year."""
        return re.fullmatch(r"\d{4}\.?", text) is not None, _says(text, item.checks["expected"][0])


class YesNoJudge:
    """Yes or no: alone if that was asked for, else at the start."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for the right one of two words."""
        first = re.match(r"(yes|no)\b", text, re.IGNORECASE)
        if first is None:
            return False, False
        is_bare = re.fullmatch(r"(?:yes|no)[.!]?", text, re.IGNORECASE) is not None
        wants_bare = any(item.instruction.endswith(suffix) for suffix in YES_NO)
        return is_bare or not wants_bare, first.group(1).lower() == item.checks["expected"][0]


def _parts(text: str) -> list[str]:
    parts = re.split(r",\s*(?:and\s+)?|\s+and\s+", text.rstrip("."))
    return [part.strip().lower() for part in parts if part.strip()]


class ListJudge:
    """Values in a row, as many as were asked for."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for distinct true values, in any order."""
        wanted, known = (
            int(item.checks["expected"][0]),
            {value.lower() for value in item.checks["expected"][1:]},
        )
        found = _parts(text.split(":")[-1])
        right = len(set(found)) == wanted and set(found) <= known
        return "\n" not in text and len(found) == wanted, right


class BulletJudge:
    """One marked line for each value."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for all values, each behind a mark."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        followed = all(re.match(r"[-*•]\s+\S", line) for line in lines)
        found = [re.sub(r"^[-*•]\s+", "", line).rstrip(".").lower() for line in lines]
        return followed, sorted(found) == sorted(value.lower() for value in item.checks["expected"])


class JsonJudge:
    """A JSON object with exactly the fields asked for."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for valid JSON, the fields, and their values."""
        try:
            found = json.loads(text)
        except ValueError:
            return False, False
        wanted = json.loads(item.checks["expected"][0])
        followed = isinstance(found, dict) and set(found) == set(wanted)
        return followed, followed and found == wanted


class CountJudge:
    """A number, as a digit or a word."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for the number; a digit alone where only a number was wanted."""
        number = int(item.checks["expected"][0])
        numbers = re.findall(rf"\b(?:\d+|{'|'.join(COUNTS)})\b", text, re.IGNORECASE)
        values = {int(one) if one.isdigit() else COUNTS.index(one.lower()) for one in numbers}
        wants_digit = "umber" in item.instruction.split("?")[-1]
        followed = re.fullmatch(r"\d+\.?", text) is not None or not wants_digit
        return followed and "\n" not in text, values == {number}


class CompareJudge:
    """The first of two, named last or named alone."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for a verdict; the years before it may be given."""
        verdict = re.split(r"\bso\b|:", text)[-1]
        first, other = item.checks["expected"][0], item.checks["wrong"][0]
        return "\n" not in text, _says(verdict, first) and not _says(verdict, other)


class SentenceJudge:
    """One full sentence."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for one sentence of at least four words with every expected value."""
        followed = "\n" not in text and text[-1] in ".!" and len(text.split()) >= 4
        right = all(_says(text, value) for value in item.checks["expected"])
        return followed and _sentences(text) == 1, right


class UnknownJudge:
    """An admission that nothing is known."""

    def judge(self, item: Item, text: str) -> tuple[bool, bool]:
        """Ask for the admission and no invented value."""
        return "\n" not in text, _IGNORANT.search(text) is not None


JUDGES: dict[str, Judge] = {
    "fact": ValueJudge(),
    "year": YearJudge(),
    "yes_no": YesNoJudge(),
    "choose": ValueJudge(),
    "list": ListJudge(),
    "bullets": BulletJudge(),
    "json": JsonJudge(),
    "count": CountJudge(),
    "compare": CompareJudge(),
    "sentence": SentenceJudge(),
    "unknown": UnknownJudge(),
    "follow_up": ValueJudge(),
}


def _repeats(text: str) -> bool:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(count > 1 for count in Counter(lines).values()):
        return True
    words = text.lower().split()
    grams = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return any(count > 2 for count in grams.values())


class LabScorer:
    """Scores the lab's own items, each by the judge of its form."""

    version = "1"

    def score(self, item: Item, answer: Answer) -> Score:
        """Judge one answer."""
        if item.category not in JUDGES:
            raise UnknownNameError("form", item.category, JUDGES)
        text = answer.text.strip()
        followed, right = JUDGES[item.category].judge(item, text) if text else (False, False)
        lines = [line for line in text.splitlines() if line.strip()]
        most = 1
        if item.category == "bullets":
            most = len(item.checks["expected"])
        elif item.category == "json" and followed:
            most = len(lines)
        return Score(
            followed=followed,
            right=right,
            stopped=answer.has_stopped,
            no_run_on=len(lines) <= most and len(text.split()) <= _LONGEST,
            no_repetition=not _repeats(text),
            no_leak=_LEAK.search(text) is None,
        )
