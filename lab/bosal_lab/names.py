"""Invented names: every one unique in its world."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from bosal_lab.pools import pool


def first_name(rng: Random, pronoun: str = "") -> str:
    """Draw a first name, fitting a pronoun if one is given."""
    if pronoun:
        return rng.choice(pool("men" if pronoun == "he" else "women"))
    return rng.choice((*pool("women"), *pool("men")))


def root(rng: Random) -> str:
    """Invent a two-syllable root."""
    onset, vowel, coda = pool("onsets"), pool("vowels"), pool("codas")
    head = rng.choice(onset) + rng.choice(vowel[:5]) + rng.choice(coda[:5])
    return (head + rng.choice(vowel) + rng.choice(coda)).capitalize()


def town(rng: Random) -> str:
    """Invent a town's name."""
    head = rng.choice(pool("onsets")) + rng.choice(pool("vowels")) + rng.choice(pool("codas"))
    return head.capitalize() + rng.choice(pool("town_ends"))


def firm(rng: Random) -> str:
    """Invent a firm's name."""
    return f"{root(rng)} {rng.choice(pool('firm_ends'))}"


def dish(rng: Random) -> str:
    """Invent a dish's name."""
    return f"{root(rng).lower()} {rng.choice(pool('dish_ends'))}"


def title(rng: Random) -> str:
    """Invent the title of a work."""
    return f"The {rng.choice(pool('adjectives'))} {rng.choice(pool('things'))}"


def unique(make: Callable[[Random], str], rng: Random, count: int, taken: set[str]) -> list[str]:
    """Draw `count` names whose marks are new: a title's whole text, else the first word."""
    drawn: list[str] = []
    while len(drawn) < count:
        name = make(rng)
        mark = name if name.startswith("The ") else name.split()[0].lower()
        if mark not in taken:
            taken.add(mark)
            drawn.append(name)
    return drawn
