"""The dialect against `re.fullmatch`, and what it refuses by name."""

import random
import re

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.decoding.constraints.conftest import Compile, accepts

from bosal_decoding.constraints import regex
from bosal_decoding.constraints.errors import (
    ConstraintSyntax,
    ConstraintTooLarge,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
    InvalidConstraint,
)
from bosal_decoding.vocabulary import Vocabulary

PATTERNS = [
    r"[0-9]+(\.[0-9]+)?",
    r"a(bab)?",
    r"(no|not sure|nothing)",
    r"(a|ab)(c|bcd)?",
    r"a+?b*?",
    r"(?i)straße|Kelvin",
    r"(?i:ab)C",
    r"(?s).a.|.{0,2}",
    r"\d{2,3}-\w+\s?",
    r"[^a-c\d]+",
    r"[]\]a-]+[^]x]",
    r"[&&||~~a[]+",
    r"[+--]x",
    r"(?P<year>[12]\d{3})",
    r"(|x)y?",
    r"^(?:^a|b$)$",
    r"(?x) a b  # a comment",
    r"(日本|東京|é)+",
    r"[😀-😂x]{1,2}",
    r"\x41\u00e9\N{SNOWMAN}?",
    r"((a{2,3}){1,2}|b){2}",
    r"\[\]\{\}\\\/\|\.\*",
    r"[\w.+-]+@[\w-]+(\.[a-z]{2,4}){1,2}",
]
ALPHABET = "abcdxyABCKkſſ0123489.-_@ \n\tßé日本東京😀😁☃[]{}\\/|*&~+Ks"


def texts_near(pattern: str, rng: random.Random) -> list[str]:
    """Texts of the alphabet, some grown from what matches so far."""
    found = [""]
    for _ in range(60):
        base = rng.choice(found)
        char = rng.choice(ALPHABET)
        place = rng.randrange(len(base) + 1)
        grown = base[:place] + char + base[place:]
        found.append(grown)
        if rng.random() < 0.3:
            found.append(grown + rng.choice(["3.14", "ab", "not sure", "a@b.co", "1999", "日本"]))
    return found


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
def test_the_language_is_that_of_fullmatch(compile_for: Compile, words: Vocabulary) -> None:
    rng = random.Random(1)
    for pattern in PATTERNS:
        program = compile_for(words, regex=pattern)
        for text in texts_near(pattern, rng):
            expected = re.fullmatch(pattern, text, re.ASCII) is not None
            assert accepts(program, text, words) == expected, (pattern, text)


@pytest.mark.filterwarnings("ignore:Possible:FutureWarning")
@pytest.mark.parametrize("pattern", PATTERNS)
@given(data=st.data())
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
def test_every_match_stays_reachable(
    compiled: Compile, byte_level_vocabulary: Vocabulary, pattern: str, data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    assume(not any("\ud800" <= char <= "\udfff" for char in text))
    assert accepts(compiled(regex=pattern), text, byte_level_vocabulary)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"[+-]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", "3.14"),
        ("(no|not sure)", "not sure"),
        ("(a|ab)", "ab"),
        ("a+?", "aaa"),
        ("^a$", "a"),
        ("(日本|東京)", "東京"),
        ("😀|😡", "😡"),
    ],
)
def test_what_other_matchers_lose_is_kept(
    compile_for: Compile, words: Vocabulary, pattern: str, text: str
) -> None:
    assert accepts(compile_for(words, regex=pattern), text, words)


@given(
    pattern=st.recursive(
        st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "\\d", "\\w", "1", "é"]),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map("".join),
            st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "*?", "{0,2}?"])).map(
                lambda pair: f"({pair[0]}){pair[1]}"
            ),
        ),
        max_leaves=8,
    ),
    text=st.text("ab1é\n", max_size=6),
)
@settings(max_examples=150)
def test_the_translation_matches_what_the_pattern_matches(pattern: str, text: str) -> None:
    translated = re.sub(r"\\x\{([0-9A-F]+)\}", _python_escape, regex.translate(pattern))
    assert bool(re.fullmatch(translated, text)) == bool(re.fullmatch(pattern, text, re.ASCII))


def _python_escape(match: re.Match[str]) -> str:
    return f"\\U{int(match[1], 16):08x}"


@pytest.mark.parametrize(
    ("pattern", "error", "word"),
    [
        ("(?=a)b", ConstraintUnsupported, "look-around"),
        ("(?<!a)b", ConstraintUnsupported, "look-around"),
        (r"(a)\1", ConstraintUnsupported, "backreference"),
        (r"(a)?(?(1)b|c)", ConstraintUnsupported, "conditional"),
        (r"\bword", ConstraintUnsupported, "word boundary"),
        ("a++", ConstraintUnsupported, "possessive"),
        ("(?>a)", ConstraintUnsupported, "atomic"),
        ("a^b", ConstraintUnsupported, "anchor"),
        ("(a$|b)c", ConstraintUnsupported, "anchor"),
        ("(?m)^a", ConstraintUnsupported, "flag m"),
        ("(a", ConstraintSyntax, "unterminated"),
        ("[b-a]", ConstraintSyntax, "range"),
        (r"\p{L}", ConstraintSyntax, "escape"),
        ("x{10001}", ConstraintTooLarge, "10001"),
        ("((x{1000}){1000}){2}", ConstraintTooLarge, "2000000"),
        ("(" * 4000 + ")" * 4000, ConstraintTooLarge, "nested"),
        ("x{99999999999999999999}", ConstraintTooLarge, "repetition"),
        (r"[^\x00-\U0010ffff]", ConstraintUnsatisfiable, "no character"),
        ("\\ud800", ConstraintUnsatisfiable, "surrogate"),
    ],
)
def test_what_is_no_regular_language_is_refused_by_name(
    compiled: Compile, pattern: str, error: type[InvalidConstraint], word: str
) -> None:
    with pytest.raises(error, match=word) as caught:
        compiled(regex=pattern)
    assert caught.value.field == "regex"
