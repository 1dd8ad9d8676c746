"""What the project's pages show to be copied: commands, Python and documents that are right."""

import ast
import builtins
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs.wordplay import bosal_wordplay as wordplay
from tests.test_documents import NAMES, PAGES
from typer.main import get_command

from bosal_client.cli import application
from bosal_decoding.recipe import Recipe

# What a page says that there is.
GIVEN = {"client", *dir(wordplay)}


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    text = page.read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `bosal …` that stands as code of its own."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    for line in re.findall(r"^(?: {4}|> )(?:\S*/)?(bosal .*)$", text, flags=re.MULTILINE):
        words = shlex.split(line, comments=True)
        yield [*takewhile(lambda word: word not in (">", "|", "&"), words)][1:]


@cache
def bosal() -> Any:
    return get_command(application())


def check(words: list[str]) -> None:
    """Raise unless there are such a command and such options."""
    command = bosal()
    options: set[str] = set()
    while True:
        options |= {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        # As `traffic|phase|pause`.
        names = words[0].split("|") if words else []
        if not hasattr(command, "commands") or not names or names[0].startswith("-"):
            break
        for name in names:
            assert name in command.commands, name
        command, words = command.commands[names[0]], words[1:]
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in options, word


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_have_the_options_they_are_shown_with(page: Path) -> None:
    for words in commands(page):
        check(words)


def test_commands_are_found() -> None:
    found = [words for page in PAGES for words in commands(page)]
    assert len(found) >= 40
    assert {"generate", "serve", "eval", "experiments", "keys"} <= {words[0] for words in found}
    with pytest.raises(AssertionError, match="--reciep"):
        check(["generate", "Hi", "--reciep=plain"])
    with pytest.raises(AssertionError, match="promot"):
        check(["experiments", "promot", "brevity"])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_has_the_names_it_uses(page: Path) -> None:
    known = {*dir(builtins), *GIVEN}
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        whole = [*ast.walk(tree)]
        for one in whole:
            if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("bosal"):
                module = importlib.import_module(one.module or "")
                assert all(hasattr(module, name.name) for name in one.names), one.module
            if isinstance(one, ast.Import | ast.ImportFrom):
                known |= {(name.asname or name.name).partition(".")[0] for name in one.names}
            elif isinstance(one, ast.FunctionDef | ast.ClassDef):
                known.add(one.name)
            elif isinstance(one, ast.arg):
                known.add(one.arg)
        names = [one for one in whole if isinstance(one, ast.Name)]
        known |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
        assert {name.id for name in names} <= known, page


def test_recipes_are_recipes() -> None:
    found: list[Any] = [yaml.safe_load(text) for page in PAGES for text in blocks(page, "yaml")]
    recipes = [document for document in found if "rules" in document]
    assert len(recipes) >= 2
    for document in recipes:
        Recipe.parse(document)
