"""Explained text on a terminal: coloured by shift, then the tokens that rules changed."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bosal_client import results
from bosal_client.explanations import Explanation
from bosal_client.render import printable, table
from bosal_client.spelled import quoted, texts

__all__ = ["ExplainedToken", "show", "tokens"]

STYLES = {"unshifted": "", "marginal": "yellow", "shifted": "bold red", "": "dim"}
LEGEND = {
    "unshifted": "the model's first choice",
    "marginal": "its second or third",
    "shifted": "further down",
}


@dataclass(frozen=True, slots=True)
class ExplainedToken:
    """A token of an answer with its text and explanation."""

    position: int
    token: int
    spelling: bytes
    text: str
    explanation: Explanation
    # Dictated by the constraint, whatever the model wanted.
    is_forced: bool = False

    @property
    def is_changed(self) -> bool:
        is_drawn = self.explanation.shift != ""
        return is_drawn and self.token != self.explanation.uncontrolled_token

    @property
    def cause(self) -> str:
        """The rules that changed it: those that flip it, else those that decide it at all."""
        effects = [one for one in self.explanation.rules if one.decides(self.token)]
        flips = [one.source for one in effects if one.flips]
        named = flips or [one.source for one in effects]
        if not self.is_changed:
            return ""
        return ", ".join(named) if named else "several together"


def tokens(choice: results.Choice) -> list[ExplainedToken]:
    """Put a choice's tokens, their bytes and their explanations together."""
    assert choice.logprobs is not None
    spellings = choice.logprobs.token_bytes
    return [
        ExplainedToken(
            position, token, spelling, text, explanation, position in choice.forced_positions
        )
        for position, (token, spelling, text, explanation) in enumerate(
            zip(choice.token_ids, spellings, texts(spellings), choice.explanations, strict=True)
        )
    ]


def show(generation: results.Generation) -> None:
    """Print the first choice: to a terminal in colour, else a line per token."""
    choice = generation.choices[0]
    explained = tokens(choice)
    changed = [one for one in explained if one.is_changed]
    if not sys.stdout.isatty():
        table(HEADER, [row(one) for one in explained])
        return
    console = Console(highlight=False, soft_wrap=True)
    text = Text()
    for one in explained:
        style = STYLES.get(one.explanation.shift, "bold red")
        text.append(printable(one.text), f"{style} underline" if one.is_changed else style)
    console.print(text)
    console.print(_legend(choice))
    if changed:
        console.print()
        table(HEADER, [row(one) for one in changed])
    console.print()
    console.print(_rules(choice))


HEADER = (
    "position", "token", "without rules", "rule", "shift", "rank", "p raw", "p ruled", "forbidden",
)  # fmt: skip


def row(one: ExplainedToken) -> tuple[str, ...]:
    explanation = one.explanation
    place = (str(one.position), quoted(one.spelling))
    if not explanation.shift:
        return (*place, "", "", "forced", "", "", "", "")
    return (
        *place,
        quoted(explanation.uncontrolled_bytes) if one.is_changed else "",
        one.cause,
        f"{explanation.shift} forced" if one.is_forced else explanation.shift,
        str(explanation.raw_rank),
        probability(explanation.raw_logprob),
        probability(explanation.controlled_logprob),
        f"{explanation.forbidden_mass:.3g}" if explanation.forbidden_mass else "",
    )


def probability(logprob: float) -> str:
    """A probability in three digits, from its logarithm."""
    return f"{math.exp(logprob):.3g}"


def _legend(choice: results.Choice) -> Text:
    text = Text()
    summary = choice.explanation
    assert summary is not None
    counts = {
        "unshifted": summary.unshifted_tokens,
        "marginal": summary.marginal_tokens,
        "shifted": summary.shifted_tokens,
    }
    for shift, meaning in LEGEND.items():
        text.append(f"{shift} {counts[shift]}", STYLES[shift] or "default")
        text.append(f" {meaning} · ", "dim")
    text.append(f"changed {summary.changed_tokens}", "underline")
    text.append(f" by rules · {summary.mean_divergence:.3g} nats of control a token", "dim")
    if constrained(choice):
        text.append(f" · {constrained(choice)}", "dim")
    return text


def constrained(choice: results.Choice) -> str:
    """What the constraint did to a choice; nothing where there is none."""
    summary = choice.explanation
    assert summary is not None
    if not summary.mean_forbidden_mass and not choice.forced_positions:
        return ""
    return (
        f"the constraint forbids {summary.mean_forbidden_mass:.3g} of the probability at a token, "
        f"and forced {len(choice.forced_positions)}"
    )


def _rules(choice: results.Choice) -> Table:
    assert choice.explanation is not None
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rule", "acted on", "flipped"):
        found.add_column(name)
    for cells in rule_rows(choice):
        found.add_row(*cells)
    return found


def rule_rows(choice: results.Choice) -> Iterator[tuple[str, str, str]]:
    """By rule: tokens where it did something, and tokens it alone flipped."""
    summary = choice.explanation
    assert summary is not None
    for rule, count in summary.activations.items():
        yield rule, f"{count} token{'s' * (count != 1)}", str(summary.flips.get(rule, 0))
