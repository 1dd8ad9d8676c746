"""A scaffold's own markers, and how those inside a message are neutralised, never obeyed.

One space is put behind the marker's first character: `<|user|>` becomes `< |user|>`, a line that
begins with `Q:` is indented.
"""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from bosal_decoding.limits import MAX_EXAMPLE_BYTES, MAX_MARKER_CHARS
from bosal_decoding.schema import Text, at_most_bytes


def neutralise(text: str, markers: Sequence[str]) -> str:
    """Put a space behind the first character of every marker until none is left."""
    patterns = [
        (re.compile(f"{re.escape(marker[0])}(?={re.escape(marker[1:])})"), marker[0] + " ")
        for marker in markers
    ]
    while any(marker in text for marker in markers):
        for pattern, broken in patterns:
            text = pattern.sub(lambda _, broken=broken: broken, text)  # type: ignore[misc]
    return text


def neutralise_lines(text: str, markers: Sequence[str]) -> str:
    """Neutralise a text that begins a line, by markers that do."""
    return neutralise(f"\n{text}", markers)[1:]


def _tidy_marker(text: str) -> str:
    if text.strip() != text or not text.isprintable():
        raise ValueError("must be one line without spaces around it")
    return text


Marker = Annotated[
    Text, Field(min_length=2, max_length=MAX_MARKER_CHARS), AfterValidator(_tidy_marker)
]
LongText = Annotated[str, at_most_bytes(MAX_EXAMPLE_BYTES)]
