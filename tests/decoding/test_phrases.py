"""When a choice owes which phrase."""

import pytest

from bosal_decoding.errors import InvalidRecipe
from bosal_decoding.phrases import PhraseBook, PlacedPhrase
from bosal_decoding.recipe import Recipe

PHRASES = (
    PlacedPhrase(token_ids=(5, 6), at=3),
    PlacedPhrase(token_ids=(7,), at=4),
    PlacedPhrase(token_ids=(8, 9), at=None),
)


def test_phrases_come_at_their_places_once() -> None:
    book = PhraseBook(PHRASES, max_tokens=12)
    assert [book.due(length) for length in (0, 2, 3)] == [(), (), (5, 6)]
    assert book.due(5) == (7,)
    assert [book.due(length) for length in (6, 9, 10, 11)] == [(), (), (8, 9), ()]
    assert book.ending(11) == ()


def test_the_last_phrase_comes_before_the_end() -> None:
    book = PhraseBook(PHRASES, max_tokens=100)
    assert book.ending(2) == (8, 9)
    assert book.ending(4) == ()


def test_what_is_taken_back_is_said_again() -> None:
    book = PhraseBook(PHRASES, max_tokens=100)
    assert book.due(3) == (5, 6)
    assert book.due(5) == (7,)
    book.rollback(4)
    assert book.due(4) == (7,)
    book.rollback(3)
    assert book.due(3) == (5, 6)


@pytest.mark.parametrize(
    ("phrases", "field"),
    [
        ([], "rules[0].phrases"),
        ([{"text": "a"}, {"text": "b", "at": "end"}], "rules[0]"),
        ([{"text": "a", "at": 0}], "rules[0].phrases[0].at"),
        ([{"text": "a", "at": "start"}], "rules[0].phrases[0].at"),
        ([{"text": ""}], "rules[0].phrases[0].text"),
        ([{"txt": "a"}], "rules[0].phrases[0].txt"),
    ],
)
def test_places_that_are_none_are_refused(phrases: list[dict[str, object]], field: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        Recipe.parse({"rules": [{"rule": "forced_phrases", "phrases": phrases}]})
    assert (caught.value.field or "").startswith(field)
