"""Explained text as one HTML file that needs nothing else."""

import html
import math
from collections.abc import Sequence

from bosal_client import results
from bosal_client.explanation_view import (
    HEADER,
    LEGEND,
    ExplainedToken,
    constrained,
    probability,
    row,
    rule_rows,
    tokens,
)
from bosal_client.spelled import quoted

__all__ = ["page"]

_STYLE = """
:root { color-scheme: light dark; --ink: #22272e; --paper: #fff; --quiet: #56606b;
  --line: #e3e7eb; --marginal: #ffefb8; --shifted: #ffc9bd; --tip: #22272e; --tip-ink: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --paper: #16191d; --quiet: #9aa5b1;
  --line: #2d333a; --marginal: #5b4a12; --shifted: #74301f; --tip: #e6e9ec; --tip-ink: #16191d; } }
body { font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin-bottom: 0; } h2 { font-size: 1.05rem; margin-top: 2.2rem; }
.quiet { color: var(--quiet); } .asked { white-space: pre-wrap; overflow-wrap: anywhere; }
.answer { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 1.15rem; line-height: 2;
  border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; }
.t { position: relative; border-radius: 3px; cursor: help; }
.marginal { background: var(--marginal); } .shifted { background: var(--shifted); }
.changed { text-decoration: underline 2px; text-underline-offset: 4px; }
.forced { color: var(--quiet); } .dictated { border-bottom: 2px dotted var(--quiet); }
.t:focus { outline: 2px solid var(--quiet); }
.tip { display: none; position: absolute; left: 0; top: 100%; z-index: 1; width: max-content;
  max-width: 24rem; font-size: .85rem; line-height: 1.45; white-space: normal; padding: .5rem .7rem;
  border-radius: 5px; background: var(--tip); color: var(--tip-ink); text-decoration: none; }
.t:hover .tip, .t:focus .tip { display: block; }
.tip b { font-weight: 600; } .end::before { content: "⏎"; color: var(--quiet); }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: pre; }
th { font-weight: 600; color: var(--quiet); }
.key span { display: inline-block; margin-right: 1.2rem; } .key i { font-style: normal; }
.key .marginal, .key .shifted { padding: 0 .4rem; }
@media (max-width: 40rem) { .answer { position: relative; } .t { position: static; }
  .tip { right: 0; width: auto; max-width: none; } }
"""


def page(asked: str, generation: results.Generation) -> str:
    """Return the page of a generation's first choice."""
    choice, started = generation.choices[0], generation.started
    summary = choice.explanation
    assert summary is not None
    explained = tokens(choice)
    origin = (
        f"{started.model} · {started.recipe_name}@{started.recipe_version} · seed {started.seed} · "
        f"{choice.finish_reason}"
    )
    counts = (summary.unshifted_tokens, summary.marginal_tokens, summary.shifted_tokens)
    key = "".join(
        f'<span><i class="{shift}">{shift}</i> {count}, {meaning}</span>'
        for (shift, meaning), count in zip(LEGEND.items(), counts, strict=True)
    )
    changed = f'<span><i class="changed">changed</i> {summary.changed_tokens}, by rules</span>'
    changed_rows = [row(one) for one in explained if one.is_changed]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_text(asked[:80])}</title><style>{_STYLE}</style></head><body>",
            f'<h1 class="asked">{_text(asked)}</h1><p class="quiet">{_text(origin)}</p>',
            f'<div class="answer">{"".join(map(_token, explained))}</div>',
            f'<p class="key">{key}{changed}</p>',
            f'<p class="quiet">{summary.mean_divergence:.3g} nats of control a token: the mean of '
            "KL(controlled || raw).</p>",
            f'<p class="quiet">{_text(constrained(choice).capitalize())}.</p>'
            if constrained(choice)
            else "",
            "<h2>Rules</h2>",
            _table(("rule", "acted on", "flipped"), list(rule_rows(choice))),
            "<h2>Changed tokens</h2>" if changed_rows else "",
            _table(HEADER, changed_rows) if changed_rows else "",
            "</body></html>",
            "",
        ]
    )


def _token(one: ExplainedToken) -> str:
    explanation = one.explanation
    classes = ["t", explanation.shift or "forced"]
    if one.is_forced:
        classes.append("dictated")
    if one.is_changed:
        classes.append("changed")
    if not one.text:
        classes.append("end")
    return (
        f'<span class="{" ".join(classes)}" tabindex="0">{_text(one.text)}'
        f'<span class="tip">{"<br>".join(_lines(one))}</span></span>'
    )


def _lines(one: ExplainedToken) -> list[str]:
    explanation = one.explanation
    lines = [f"<b>{_text(quoted(one.spelling))}</b> at {one.position}"]
    if not explanation.shift:
        return [*lines, "forced, not drawn"]
    lines.append(
        f"rank {explanation.raw_rank} → {explanation.controlled_rank}, "
        f"p {probability(explanation.raw_logprob)} → "
        f"{probability(explanation.controlled_logprob)}"
    )
    lines.append(f"entropy {explanation.entropy:.3g}, divergence {explanation.divergence:.3g} nats")
    if explanation.forbidden_mass:
        lines.append(f"the constraint forbids {explanation.forbidden_mass:.3g} of the probability")
    if one.is_forced:
        lines.append("forced by the constraint")
    if explanation.raw_argmax != one.token:
        lines.append(f"the model prefers {_text(quoted(explanation.raw_argmax_bytes))}")
    if one.is_changed:
        lines.append(f"without rules: {_text(quoted(explanation.uncontrolled_bytes))}")
    for effect in explanation.rules:
        parts = []
        if effect.on_chosen:
            parts.append(f"{_weight(effect.on_chosen)} on it")
        if one.is_changed and effect.on_uncontrolled:
            parts.append(
                f"{_weight(effect.on_uncontrolled)} on "
                f"{_text(quoted(explanation.uncontrolled_bytes))}"
            )
        if effect.masked_tokens:
            parts.append(f"masks {effect.masked_tokens:,}")
        if effect.decides(one.token):
            parts.append(f"without it {_text(quoted(effect.token_without_bytes))}")
        lines.append(f"<b>{_text(effect.source)}</b>: {', '.join(parts)}")
    return lines


def _weight(change: float) -> str:
    return f"{change:+.3g}" if math.isfinite(change) else "−∞"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>" for cells in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _text(text: str) -> str:
    return html.escape(text)
