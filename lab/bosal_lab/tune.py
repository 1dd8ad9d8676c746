"""Supervised tuning pairs: the ordinary way to make a model follow instructions, for comparison."""

from __future__ import annotations

from bosal_lab import asks
from bosal_lab.ask import Ask, Style
from bosal_lab.chance import stream
from bosal_lab.documents.dialogue import FORM_WEIGHTS
from bosal_lab.world import World


def prompt(turns: tuple[str, ...]) -> str:
    """Return the prompt of a conversation: every turn on its own lines, nothing else."""
    return "".join(turn + "\n" for turn in turns)


def pair(world: World, seed: int, index: int) -> Ask:
    """Return the tuning set's ask at `index`: always about a question-form entity."""
    rng = stream(seed, "pair", index)
    form = rng.choices(list(FORM_WEIGHTS), list(FORM_WEIGHTS.values()))[0]
    return asks.make(form, world, rng, asked=True, style=Style())


def example(ask: Ask) -> tuple[str, str]:
    """Return the prompt and the answer an ask is tuned on."""
    turns = tuple(text for earlier in ask.earlier for text in earlier)
    return prompt((*turns, ask.instruction)), ask.answer
