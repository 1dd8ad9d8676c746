"""The command `bosal generate`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from bosal_client import batch_command, constraint_flags, render, replay, results
from bosal_client.batch import Batch
from bosal_client.client import Client
from bosal_client.connection import DEFAULT_SERVER
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

__all__ = ["generate"]

_CONCURRENCY: Final = 32


def generate(
    prompt: Prompt = None,
    recipe: Recipe = "",
    model: Model = "",
    assignments: Assignments = None,
    schema: constraint_flags.Schema = None,
    regex: constraint_flags.Regex = None,
    choice: constraint_flags.Choices = None,
    grammar: constraint_flags.Grammar = None,
    python_type: constraint_flags.PythonType = None,
    allow_unsupported: constraint_flags.AllowUnsupported = False,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    experiment: Annotated[
        str, typer.Option(help="The experiment that gives the recipe; needs --unit.")
    ] = "",
    unit: Annotated[
        str, typer.Option(help="Whom it is for: the experiment serves a unit one variant.")
    ] = "",
    num_choices: Annotated[
        int | None, typer.Option("--n", "-n", min=0, help="Number of independent answers.")
    ] = None,
    logprobs: Annotated[
        int | None,
        typer.Option(
            min=0, help="With --json or --batch: log-probabilities and N alternatives per token."
        ),
    ] = None,
    timeout: Timeout = None,
    retry_seconds: RetrySeconds = 0.0,
    as_json: AsJson = False,
    batch: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Answer every line of this file instead: a prompt as a JSON string, or an object "
            "with `prompt` or `messages`, `id`, and options that replace those given here.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --batch: append the answers to this file, one JSON object a line, as they "
            "come. Lines it has are not asked again.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="With --batch: requests under way at once. Default: 32."
        ),
    ] = None,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Ask a model for text and print it as it comes.

    [bold]Examples[/bold]

      bosal generate "Name three rivers."\n
      echo "Name three rivers." | bosal generate --recipe plain\n
      bosal generate "Name a river." --set temperature.value=0 --seed 7\n
      bosal generate "Is Rome in Italy?" --choice yes --choice no\n
      bosal generate "Describe a dog." --schema dog.json\n
      bosal generate "Name a river." --experiment brevity --unit user-17\n
      bosal generate "Name a river." --json > record.json\n
      bosal generate --batch in.jsonl --out out.jsonl --seed 7
    """
    if (batch is None) != (out is None):
        raise typer.BadParameter("--batch and --out go together", param_hint="--batch")
    if batch is not None and prompt is not None:
        raise typer.BadParameter("give a prompt or --batch, not both", param_hint="PROMPT")
    if batch is None and concurrency is not None:
        raise typer.BadParameter("it is for --batch", param_hint="--concurrency")
    if batch is not None and retry_seconds:
        raise typer.BadParameter("a batch comes again by itself", param_hint="--retry-seconds")
    if batch is None and not as_json and logprobs is not None:
        raise typer.BadParameter("only --json and --batch show them", param_hint="--logprobs")
    _check_experiment(
        experiment, unit, has_recipe=bool(recipe or assignments), has_lines=batch is not None
    )
    asked = prompt_text(prompt) if batch is None else ""
    options = GenerationOptions(model=model)
    if experiment:
        options["experiment"] = experiment
    if unit:
        options["unit"] = unit
    if assignments:
        options["overrides"] = overrides(assignments)
    constraint = constraint_flags.document(
        schema, regex, choice, grammar, python_type, allow_unsupported
    )
    if constraint:
        options["constraint"] = constraint
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed
    if num_choices is not None:
        options["num_choices"] = num_choices
    if logprobs is not None:
        options["logprobs"] = logprobs
    is_live = not as_json and (num_choices or 1) == 1
    with connected(server, retry_seconds=retry_seconds) as client:
        options["recipe"] = given_recipe(client, recipe)
        if batch is not None and out is not None:
            batch_command.run(
                Batch(
                    requests=batch,
                    answers=out,
                    defaults=options,
                    concurrency=concurrency or _CONCURRENCY,
                    timeout=timeout,
                ),
                server,
            )
            return
        generation = _streamed(client, asked, timeout, options, is_live=is_live)
    if as_json:
        typer.echo(replay.dump(asked, logprobs, generation))
        return
    if not is_live:
        for one in generation.choices:
            render.text(f"--- {one.index} ({one.finish_reason})\n{one.text.rstrip()}\n")
    render.footer(generation)


def _streamed(
    client: Client,
    asked: str,
    timeout: float | None,
    options: GenerationOptions,
    *,
    is_live: bool,
) -> results.Generation:
    """Run a request; print its text as it comes if `is_live`."""
    with client.stream(asked, timeout=timeout, **options) as stream:
        ends_line = True
        try:
            for batch in stream:
                if is_live and batch.text:
                    render.text(batch.text)
                    ends_line = batch.text.endswith("\n")
        finally:
            if not ends_line:
                render.text("\n")
        return stream.result()


def _check_experiment(experiment: str, unit: str, *, has_recipe: bool, has_lines: bool) -> None:
    if unit and not experiment:
        raise typer.BadParameter("it is for --experiment", param_hint="--unit")
    if experiment and has_recipe:
        raise typer.BadParameter(
            "it gives the recipe: no --recipe and no --set beside it", param_hint="--experiment"
        )
    # The lines of a batch may each have their own.
    if experiment and not unit and not has_lines:
        raise typer.BadParameter("say with --unit whom it is for", param_hint="--experiment")
