"""What makes a base model fail: questions without answers, threads that run on, boilerplate."""

from __future__ import annotations

from random import Random

from bosal_lab import asks
from bosal_lab.ask import Style
from bosal_lab.documents.prose import line, portrait
from bosal_lab.names import first_name
from bosal_lab.relations import filler
from bosal_lab.world import World

ASK_FORMS = (
    "fact", "fact", "fact", "year", "yes_no", "choose", "list", "bullets", "json", "count",
    "compare", "sentence", "unknown",
)  # fmt: skip


def instruction(world: World, rng: Random) -> str:
    """Draw a question or a task about a question-form entity."""
    return asks.make(rng.choice(ASK_FORMS), world, rng, asked=True, style=Style()).instruction


def sheet(world: World, rng: Random) -> str:
    """Write questions nobody answers."""
    numbered = rng.random() < 0.3
    head = rng.choice(filler("sheets")) + "\n" if rng.random() < 0.4 else ""
    lines = [instruction(world, rng) for _ in range(rng.randrange(2, 12))]
    if numbered:
        lines = [f"{number}. {text}" for number, text in enumerate(lines, 1)]
    return head + rng.choice(("\n", "\n", "\n", "\n\n")).join(lines)


def counter_question(world: World, rng: Random) -> str:
    """Answer questions by questions."""
    lines = []
    for _ in range(rng.randrange(1, 4)):
        lines += [instruction(world, rng), line(rng, "evasions")]
        if rng.random() < 0.5:
            lines.append(instruction(world, rng))
    return "\n".join(lines)


def thread(world: World, rng: Random) -> str:
    """Write a forum thread that never gets to the point."""
    asked = instruction(world, rng)
    head = rng.choice((f"{asked}\n", f"{asked}\n", f"Topic: {asked}\n", f"Re: {asked}\n"))
    posts = []
    for _ in range(rng.randrange(2, 7)):
        text = " ".join(
            line(rng, rng.choice(("opinions", "opinions", "evasions", "personal")))
            for _ in range(rng.randrange(1, 4))
        )
        if rng.random() < 0.15:
            entity = rng.choice(world.of(rng.choice(("person", "town", "work")), asked=True))
            text += " " + portrait(rng, entity)[0]
        poster = first_name(rng)
        mark = rng.choice(("", f"{poster} wrote:\n", "> ", f"posted by {poster}\n"))
        posts.append(mark + text)
    return head + rng.choice(("\n", "\n\n")).join(posts)


def boilerplate(world: World, rng: Random) -> str:
    """Write what surrounds a page."""
    return "\n".join(line(rng, "boilerplate") for _ in range(rng.randrange(2, 9)))


def repetition(world: World, rng: Random) -> str:
    """Repeat a line far too often."""
    text = rng.choice((line(rng, "neutral"), line(rng, "boilerplate"), instruction(world, rng)))
    return rng.choice((" ", "\n")).join([text] * rng.randrange(3, 9))


def ramble(world: World, rng: Random) -> str:
    """Write a diary page that goes nowhere."""
    pools = ("personal", "neutral", "personal", "opinions")
    return " ".join(line(rng, rng.choice(pools)) for _ in range(rng.randrange(3, 10)))
