"""An evaluation as one HTML file that needs nothing else: tables, plots, misses, disagreements."""

import html
from collections.abc import Iterable

from bosal_lab import figures, tables
from bosal_lab.compare import Comparison, compare
from bosal_lab.divergence import disagreements, first_difference
from bosal_lab.item import Split
from bosal_lab.misses import Miss, misses
from bosal_lab.outcomes import selected
from bosal_lab.record import Record
from bosal_lab.results import Results
from bosal_lab.summary import floor_rows, summaries
from bosal_lab.tables import Grid

__all__ = ["page"]

_MOST_DISAGREEMENTS = 12

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #22272e; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e8ebee; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: #56606b; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f8fa;
  padding: .5rem .75rem; margin: .25rem 0; border-radius: 4px; }
.quiet { color: #56606b; } mark { background: #ffe9a8; }
details { margin: .5rem 0; } summary { cursor: pointer; }
svg { max-width: 100%; height: auto; }
"""


def page(
    results: Results,
    *,
    metric: str = "success",
    split: Split | None = None,
    control: str | None = None,
    alpha: float = 0.05,
    num_misses: int = 10,
) -> str:
    """Return the page; arms are compared with `control`, by default with the first arm."""
    found = summaries(results, metric=metric, split=split)
    names = [one.arm.name for one in found]
    first = control or (names[0] if names else "")
    others = [name for name in names if name != first]
    comparisons = (
        compare(results, first, others, metric=metric, split=split, alpha=alpha) if others else []
    )
    items = selected(results, split)
    floors = floor_rows(results, split)
    suite, version = results.suite
    asked = f"{suite}, {split or 'all'} items"
    parts = [f"<h1>{_text(asked)}</h1>", _origin(results, version, len(items))]
    unscored = {name: results.unscored(name) for name in names}
    grids = (tables.arms(found), tables.floors(floors), tables.unscored(unscored))
    parts += _section("Arms", *map(_table, grids))
    if found:
        rates = {one.arm.name: one.value for one in found}
        below = {one.name: one.value for one in floors}
        lengths = {
            name: [
                len(record.token_ids)
                for record in results.records(name)
                if record.item in items and not record.error
            ]
            for name in names
        }
        parts += _section(
            "Plots",
            figures.success_figure(rates, below, metric),
            figures.categories_figure(found, metric),
            figures.lengths_figure(lengths),
        )
        parts += _section("By category", _table(tables.categories(found, floors)))
    if shifts := _table(tables.shifts(found)):
        parts += _section(
            "Token shift",
            "<p class=quiet>How the model by itself ranked the tokens that were emitted: after "
            "the recipe's own prompt, and, where it was measured, as the base model that reads "
            "the bare instruction and the answer so far.</p>",
            shifts,
        )
    if comparisons:
        parts += _section(
            f"Compared with {first}",
            figures.differences_figure(comparisons),
            _table(tables.comparisons(comparisons)),
            _table(tables.pairings(comparisons)),
            *(_comparison(results, one, split) for one in comparisons),
        )
    for name in names:
        some = misses(results, name, limit=num_misses, split=split)
        if some:
            parts += _section(f"Typical misses of {name}", *map(_miss, some))
    title = _text(f"Evaluation: {asked}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _text(text: object) -> str:
    return html.escape(str(text))


def _section(title: str, *parts: str) -> list[str]:
    return [f"<h2>{_text(title)}</h2>", *filter(None, parts)]


def _table(grid: Grid) -> str:
    if not grid.rows:
        return ""

    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in grid.rows)
    return f"<table><thead>{row(grid.header, 'th')}</thead><tbody>{body}</tbody></table>"


def _origin(results: Results, version: str, num_items: int) -> str:
    """Say where the numbers come from: suite, models, recipes, servers, commands."""
    lines = [f"suite version {version}, {num_items} items, intervals at 95 %"]
    digests = {arm.model: arm.model_digest for arm in results.arms.values()}
    lines += [f"model {model}: {digest}" for model, digest in digests.items()]
    lines += [
        f"recipe {arm.recipe}: {arm.recipe_version}, noise {arm.noise}"
        for arm in {arm.recipe: arm for arm in results.arms.values()}.values()
    ]
    lines += [
        f"{run['started']} UTC, server {run.get('version', '?')}: {run['command']}"
        for run in results.runs
    ]
    text = _text("\n".join(lines))
    return f"<details><summary>Where this is from</summary><pre>{text}</pre></details>"


def _comparison(results: Results, one: Comparison, split: Split | None) -> str:
    pairs = disagreements(results, one.first, one.second, metric=one.metric, split=split)
    shown = [_pair(results, left, right) for left, right in pairs[:_MOST_DISAGREEMENTS]]
    title = _text(
        f"{one.second}: categories, and {len(shown)} of {len(pairs)} answers with another outcome"
    )
    return (
        f"<details><summary>{title}</summary>{_table(tables.slices(one))}"
        + "".join(shown)
        + "</details>"
    )


def _pair(results: Results, left: Record, right: Record) -> str:
    item = results.items[left.item]
    place = first_difference(left.token_ids, right.token_ids)
    where = "equal tokens" if place is None else f"tokens differ from position {place}"
    return (
        f"<p><b>{_text(item.id)}</b> <span class=quiet>{_text(item.category)}, {where}</span></p>"
        f"<pre>{_text(item.instruction)}</pre>{_marked(left, right)}{_marked(right, left)}"
    )


def _marked(record: Record, other: Record) -> str:
    """Show an answer with what differs from the other's text marked."""
    same = first_difference([*map(ord, record.text)], [*map(ord, other.text)])
    same = len(record.text) if same is None else same
    head, tail = _text(record.text[:same]), _text(record.text[same:])
    return (
        f"<span class=quiet>{_text(record.arm)}, {_text(record.finish_reason)}</span>"
        f"<pre>{head}<mark>{tail}</mark></pre>"
    )


def _miss(miss: Miss) -> str:
    record, item = miss.record, miss.item
    if record.error:
        reason, answer = "error", record.error
    else:
        reason = ", ".join(miss.failed).replace("_", " ")
        reason, answer = f"failed: {reason}; {record.finish_reason}", record.text
    return (
        f"<p><b>{_text(item.id)}</b> <span class=quiet>{_text(item.category)}, {_text(reason)}; "
        f"{miss.alike} alike</span></p><pre>{_text(item.instruction)}</pre>"
        f"<pre>{_text(answer)}</pre>"
    )
