"""Context-free grammars: Lark as llguidance reads it, and GBNF turned into that."""

import re
from typing import Final

from llguidance.gbnf_to_lark import gbnf_to_lark

from bosal_decoding.constraints import regex
from bosal_decoding.constraints.errors import (
    ConstraintSyntax,
    ConstraintTooLarge,
    ConstraintUnsupported,
)
from bosal_decoding.constraints.limits import MAX_GRAMMAR_RULES

_RULE: Final = re.compile(r"^[ \t]*[?!]?[A-Za-z_][\w.-]*(?:\[[^\]\n]*\])?[ \t]*(?:::=|:)", re.M)
# A string, a comment, or a regex with its flags, whichever comes first.
_LEXEME: Final = re.compile(r'"(?:[^"\\\n]|\\.)*"i?|//[^\n]*|#[^\n]*|/((?:[^/\\\n]|\\.)+)/([a-z]*)')
_SPECIAL: Final = re.compile(r"<[^<>\n]*>")
# An attribute of a rule that says how to draw, which is the recipe's to say.
_TEMPERATURE: Final = re.compile(r"^[ \t]*[?!]?\w[\w.-]*\[[^\]\n]*\btemperature\b", re.M)
_DIRECTIVE: Final = re.compile(r"^[ \t]*%(llguidance|json)\b", re.M)


def as_lark(text: str, syntax: str) -> str:
    """Return a Lark grammar whose regexes are of our dialect, its size within bounds."""
    if len(_RULE.findall(text)) > MAX_GRAMMAR_RULES:
        raise ConstraintTooLarge(f"a grammar of more than {MAX_GRAMMAR_RULES} rules")
    if syntax == "gbnf":
        try:
            return gbnf_to_lark(text)
        except RecursionError:
            raise ConstraintTooLarge("nested too deeply") from None
        except Exception as error:  # the converter raises bare ones
            raise ConstraintSyntax(f"not a GBNF grammar: {error}") from None
    bare = _LEXEME.sub('""', text)
    if special := _SPECIAL.search(bare):
        what = f"special token {special[0][:40]}: a constraint is a language of text"
        raise ConstraintUnsupported(what, keywords=[special[0]])
    if directive := _DIRECTIVE.search(bare):
        what = f"%{directive[1]} is not supported"
        raise ConstraintUnsupported(what, keywords=[f"%{directive[1]}"])
    if _TEMPERATURE.search(bare):
        what = "the attribute 'temperature' is not supported: a rule of the recipe has it"
        raise ConstraintUnsupported(what, keywords=["temperature"])
    return _LEXEME.sub(_plain, text)


def _plain(lexeme: re.Match[str]) -> str:
    pattern, flags = lexeme[1], lexeme[2]
    if pattern is None:
        return lexeme[0]
    if unknown := set(flags) - set("ismx"):
        raise ConstraintUnsupported(f"regex flag '{min(unknown)}' is not supported")
    flagged = f"(?{flags})" if flags else ""
    return f"/{regex.translate(flagged + pattern)}/"
