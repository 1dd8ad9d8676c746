"""An instruction with its right answer."""

from __future__ import annotations

from dataclasses import dataclass

from bosal_lab.phrases import UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One instruction with its answer; `expected` holds what a right answer must say."""

    form: str
    entity: str
    relation: str
    instruction: str
    answer: str
    expected: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    is_new_wording: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How the asks of one document are put: full sentences or short answers, which wordings."""

    is_full: bool = False
    is_new: bool = False
    unknown: str = UNKNOWN[0]
