"""Reads prompt files: one JSON object a line, each an item of a suite of the user's own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bosal_client.requests import Message
from bosal_lab.evaluation_errors import PromptError
from bosal_lab.item import Item, Scorer, Suite
from bosal_lab.patterns import PatternScorer, check_problem

__all__ = ["lines", "read_prompts"]

_FIELDS = ("id", "category", "split", "prompt", "messages", "checks", "reference", "cluster")


def read_prompts(path: Path, scorer: Scorer | None = None) -> Suite:
    """Read `{"prompt": …}` or `{"messages": [{"role": …, "text": …}]}` lines.

    Optional fields: id, category, split (dev or test), checks, reference, cluster. Without a
    scorer of one's own, checks are patterns.
    """
    items: dict[str, Item] = {}
    for number, line in lines(path):
        item = _item(path, number, line)
        if item.id in items:
            raise PromptError(path, number, f"id {item.id!r} is taken")
        problem = check_problem(item.checks) if scorer is None else None
        if problem is not None:
            raise PromptError(path, number, problem)
        items[item.id] = item
    if not items:
        raise PromptError(path, None, "there is no prompt in it")
    return Suite(name=path.stem, items=tuple(items.values()), scorer=scorer or PatternScorer())


def lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield every line that is not empty as an object, with its number."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(path, None, str(error)) from error
    # Only newlines part lines: JSON may hold the other separators as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found = json.loads(line)
            except ValueError as error:
                raise PromptError(path, number, f"not JSON: {error}") from error
            if not isinstance(found, dict):
                raise PromptError(path, number, "not an object")
            yield number, found


def _item(path: Path, number: int, line: dict[str, Any]) -> Item:
    for field in line:
        if field not in _FIELDS:
            raise PromptError(
                path, number, f"no field is named {field!r}; the fields are {', '.join(_FIELDS)}"
            )
    texts = {field: line.get(field, "") for field in ("id", "category", "reference", "cluster")}
    texts["id"] = str(texts["id"]) or str(number)
    for field, value in texts.items():
        if not isinstance(value, str):
            raise PromptError(path, number, f"{field} is no text")
    split = line.get("split", "test")
    if split not in ("dev", "test"):
        raise PromptError(path, number, "split is neither 'dev' nor 'test'")
    checks = line.get("checks", {})
    if not isinstance(checks, dict):
        raise PromptError(path, number, "checks is no object")
    return Item(
        id=texts["id"],
        category=texts["category"] or "all",
        split=split,
        messages=_messages(path, number, line),
        checks=checks,
        reference=texts["reference"],
        cluster=texts["cluster"],
    )


def _messages(path: Path, number: int, line: dict[str, Any]) -> tuple[Message, ...]:
    if ("prompt" in line) == ("messages" in line):
        raise PromptError(path, number, "either 'prompt' or 'messages' is needed")
    if "prompt" in line:
        if not (isinstance(line["prompt"], str) and line["prompt"].strip()):
            raise PromptError(path, number, "prompt is no text")
        return (Message("user", line["prompt"]),)
    messages = []
    for message in line["messages"] if isinstance(line["messages"], list) else []:
        match message:
            case {"role": "user" | "assistant" as role, "text": str(text)} if len(message) == 2:
                messages.append(Message(role, text))
            case _:
                raise PromptError(path, number, f"not a message with a role and a text: {message}")
    if not messages or messages[-1].role != "user":
        raise PromptError(path, number, "messages must end with the user's")
    return tuple(messages)
