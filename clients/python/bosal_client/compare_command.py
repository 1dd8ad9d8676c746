"""The command `bosal compare`."""

from dataclasses import asdict
from typing import Annotated

import typer

from bosal_client import render
from bosal_client.comparisons import Comparison, Divergence
from bosal_client.connection import DEFAULT_SERVER
from bosal_client.invocation import (
    AsJson,
    MaxTokens,
    Model,
    Prompt,
    RetrySeconds,
    Seed,
    Server,
    Timeout,
    connected,
    given_recipe,
    prompt_text,
    show,
)
from bosal_client.replay import plain
from bosal_client.requests import GenerationOptions
from bosal_client.spelled import quoted

__all__ = ["compare"]


def compare(
    prompt: Prompt = None,
    recipes: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            "-r",
            help="NAME, NAME@VERSION or a file; 2 to 8 of them. The first is compared with the "
            "others.",
        ),
    ] = None,
    model: Model = "",
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    timeout: Timeout = None,
    retry_seconds: RetrySeconds = 0.0,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Run one prompt through several recipes under the same noise; say where they part and why.

    [bold]Examples[/bold]

      bosal compare "Name a river." -r plain -r steered\n
      bosal compare "Name a river." -r steered -r rules -r in-context --seed 7
    """
    asked = prompt_text(prompt)
    names = recipes or []
    if len(names) < 2:
        raise typer.BadParameter("name at least two recipes", param_hint="--recipe")
    options = GenerationOptions(model=model)
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed
    with connected(server, retry_seconds=retry_seconds) as client:
        given = [given_recipe(client, name) for name in names]
        with client.compare(asked, given, timeout=timeout, **options) as stream:
            comparison = stream.result()
    if as_json:
        show(plain(asdict(comparison)))
        return
    _print(comparison)


def _print(comparison: Comparison) -> None:
    divergences = {one.recipe: one for one in comparison.divergences}
    for place, generation in enumerate(comparison.generations):
        started, choice = generation.started, generation.choices[0]
        said = f": {describe(divergences[place])}" if place in divergences else ""
        render.text(f"--- {started.recipe_name} ({choice.finish_reason}){said}\n")
        render.text(f"{choice.text.rstrip()}\n")


def describe(found: Divergence) -> str:
    """Say in words where a recipe leaves the first one, and why."""
    if found.position is None:
        return "the same"
    token = "has ended" if found.token is None else quoted(found.token_bytes)
    first = "the end" if found.first_token is None else quoted(found.first_token_bytes)
    causes = {
        "rule": ", ".join(found.rules) or "several rules together",
        "prompt": "another prompt",
        "numerics": "no rule, but the model's own rounding",
        "ending": "another end",
    }
    why = causes.get(found.cause, found.cause)
    return f"from token {found.position} on, {token} for {first}, by {why}"
