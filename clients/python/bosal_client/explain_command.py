"""The command `bosal explain`."""

from pathlib import Path
from typing import Annotated

import typer

from bosal_client import constraint_flags, explanation_page, explanation_view, render, replay
from bosal_client.connection import DEFAULT_SERVER
from bosal_client.constraint_flags import (
    AllowUnsupported,
    Choices,
    Grammar,
    PythonType,
    Regex,
    Schema,
)
from bosal_client.document_file import writing
from bosal_client.invocation import (
    AsJson,
    Assignments,
    MaxTokens,
    Model,
    Prompt,
    Recipe,
    RetrySeconds,
    Seed,
    Server,
    Timeout,
    connected,
    given_recipe,
    overrides,
    prompt_text,
)
from bosal_client.requests import GenerationOptions

__all__ = ["explain"]


def explain(
    prompt: Prompt = None,
    recipe: Recipe = "",
    model: Model = "",
    assignments: Assignments = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    schema: Schema = None,
    regex: Regex = None,
    choice: Choices = None,
    grammar: Grammar = None,
    python_type: PythonType = None,
    allow_unsupported: AllowUnsupported = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that needs nothing else."),
    ] = None,
    timeout: Timeout = None,
    retry_seconds: RetrySeconds = 0.0,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Generate, and show which tokens the rules changed and by which rule.

    On a terminal the text is coloured by the rank that the model itself gave each token: plain is
    its first choice, yellow the second or third, red further down; underlined is what the same
    draw would not have given without the recipe's rules.

    In a pipe: a line per token with its position, itself, what the same draw would have given
    without rules, the rules that changed it, its shift, its rank, its probability before and after
    the rules, and the share that a constraint forbids.

    [bold]Examples[/bold]

      bosal explain "Name a river."\n
      bosal explain "Name a river." --recipe rules --html river.html\n
      bosal explain "Is the sky blue?" --choice yes --choice no\n
      bosal explain "Name a river." | grep eos_ramp
    """
    asked = prompt_text(prompt)
    options = GenerationOptions(model=model, explain=True, logprobs=0)
    constraint = constraint_flags.document(
        schema, regex, choice, grammar, python_type, allow_unsupported
    )
    if constraint:
        options["constraint"] = constraint
    if assignments:
        options["overrides"] = overrides(assignments)
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed
    with connected(server, retry_seconds=retry_seconds) as client:
        options["recipe"] = given_recipe(client, recipe)
        generation = client.generate(asked, timeout=timeout, **options)
    if page is not None:
        with writing(page, "--html"):
            page.write_text(explanation_page.page(asked, generation), encoding="utf-8")
    if as_json:
        typer.echo(replay.dump(asked, 0, generation))
    elif page is None:
        explanation_view.show(generation)
        render.footer(generation)
