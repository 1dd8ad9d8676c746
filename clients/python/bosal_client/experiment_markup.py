"""The pieces that report pages are made of."""

import html
from collections.abc import Iterable, Sequence

__all__ = ["section", "table", "text"]


def text(value: object) -> str:
    return html.escape(str(value))


def section(title: str, body: str) -> str:
    return f"<h2>{text(title)}</h2>\n{body}" if body else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{text(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    return f"<div class=scroll><table>{row(header, 'th')}{body}</table></div>"
