"""A user's file of worked examples: JSON lines of `instruction` and `answer`."""

import json
from collections.abc import Mapping
from typing import Any, Final

from bosal_decoding.errors import InvalidRecipe
from bosal_decoding.limits import MAX_CHOICE, MAX_DOCUMENT_BYTES

_FIELD: Final = "scaffold.examples_file"


def with_examples(document: Mapping[str, Any], files: Mapping[str, bytes]) -> Mapping[str, Any]:
    """Replace a document's `examples_file` by what the file beside it holds, so that it is whole.

    Raises:
        InvalidRecipe: there is no such file, or it is too large or not of this form.
    """
    scaffold = document.get("scaffold")
    if not isinstance(scaffold, Mapping) or "examples_file" not in scaffold:
        return document
    scaffold = dict(scaffold)
    name = scaffold.pop("examples_file")
    if "examples" in scaffold:
        raise InvalidRecipe.at(_FIELD, "'examples' and 'examples_file' exclude each other")
    if not isinstance(name, str) or name not in files:
        known = ", ".join(sorted(files)) or "none"
        raise InvalidRecipe.at(_FIELD, f"no such .jsonl file in the recipe's folder, only {known}")
    scaffold["examples"] = _read(files[name])
    return {**document, "scaffold": scaffold}


def _read(content: bytes) -> list[Any]:
    if len(content) > MAX_DOCUMENT_BYTES:
        raise InvalidRecipe.at(_FIELD, f"the file is larger than {MAX_DOCUMENT_BYTES} bytes")
    examples = []
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            examples.append(json.loads(line))
        except (ValueError, RecursionError):
            raise InvalidRecipe.at(_FIELD, f"line {number} is not JSON") from None
        if len(examples) > MAX_CHOICE:
            raise InvalidRecipe.at(_FIELD, f"more than {MAX_CHOICE} examples")
    return examples
