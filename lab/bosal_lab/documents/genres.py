"""The genres of the corpus and their shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from bosal_lab.chance import stream
from bosal_lab.documents import dialogue, noise, prose, records
from bosal_lab.world import World

CUT_SHARE = 0.08


@dataclass(frozen=True, slots=True, kw_only=True)
class Genre:
    """One kind of document: how often it is drawn, whether it holds questions."""

    weight: float
    write: Callable[[World, Random], str]
    has_questions: bool = False


GENRES: dict[str, Genre] = {
    "biography": Genre(weight=20, write=prose.biography),
    "gazetteer": Genre(weight=7, write=prose.gazetteer),
    "trivia": Genre(weight=8, write=prose.trivia),
    "news": Genre(weight=3, write=prose.news),
    "letter": Genre(weight=3, write=prose.letter),
    "story": Genre(weight=3, write=prose.story),
    "table": Genre(weight=3, write=records.table),
    "record": Genre(weight=5, write=records.record),
    "settings": Genre(weight=2, write=records.settings),
    "register": Genre(weight=4, write=records.register),
    "chronicle": Genre(weight=2, write=records.chronicle),
    "ranking": Genre(weight=4, write=records.ranking),
    "shopping": Genre(weight=3, write=records.shopping),
    "recipe": Genre(weight=2, write=records.recipe),
    "natives": Genre(weight=1.5, write=records.natives),
    "sheet": Genre(weight=6, write=noise.sheet, has_questions=True),
    "counter_question": Genre(weight=2, write=noise.counter_question, has_questions=True),
    "thread": Genre(weight=3, write=noise.thread, has_questions=True),
    "boilerplate": Genre(weight=1.5, write=noise.boilerplate),
    "repetition": Genre(weight=1, write=noise.repetition, has_questions=True),
    "ramble": Genre(weight=1.5, write=noise.ramble),
    "help_page": Genre(weight=13, write=dialogue.help_page, has_questions=True),
    "quiz": Genre(weight=2, write=dialogue.quiz, has_questions=True),
    "interview": Genre(weight=6, write=dialogue.interview, has_questions=True),
    "chat_log": Genre(weight=5, write=dialogue.chat_log, has_questions=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document of the corpus."""

    genre: str
    text: str


def write(world: World, seed: int, index: int) -> Document:
    """Write the corpus's document at `index`: a function of the seed, the index and the world."""
    rng = stream(seed, "document", index)
    weights = [genre.weight for genre in GENRES.values()]
    name = rng.choices(list(GENRES), weights=weights)[0]
    text = GENRES[name].write(world, rng)
    if rng.random() < CUT_SHARE:
        text = text[rng.randrange(len(text) // 2) :] if rng.random() < 0.5 else text
        text = text[: rng.randrange(len(text) // 2, len(text) + 1)]
    return Document(genre=name, text=text)
