"""The command `bosal`: what a client can ask, plus the commands other installed parts add."""

from dataclasses import asdict
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Final

import typer

from bosal_client import (
    batch_command,
    constraint_flags,
    experiment_commands,
    recipe_commands,
    render,
    replay,
    results,
)
from bosal_client.batch import Batch
from bosal_client.client import Client
from bosal_client.command_help import flow, flowing
from bosal_client.compare_command import compare
from bosal_client.connection import DEFAULT_SERVER
from bosal_client.explain_command import explain
from bosal_client.invocation import (
    AsJson,
    Assignments,
    MaxTokens,
    Model,
    Prompt,
    Recipe,
    Seed,
    Server,
    Timeout,
    connected,
    given_recipe,
    overrides,
    prompt_text,
    show,
)
from bosal_client.requests import GenerationOptions
from bosal_client.rules_command import rules
from bosal_client.score_command import score

__all__ = ["application", "main"]

_HELP = """Base models that follow instructions, by rules over their decoding.

Exit codes: 0 done, 1 failed or a replay differed, 2 a wrong request or command line,
69 no server answers, 70 the server failed, 75 the server is full, 77 the API key is missing, wrong
or not for this, 124 timeout, 130 interrupted.

BOSAL_API_KEY is sent with every call. BOSAL_TLS_CA turns TLS on: a file of authorities in PEM, or
`system` for this machine's. BOSAL_CLIENT_CERTIFICATE and BOSAL_CLIENT_KEY identify the client.

[bold]Examples[/bold]

  bosal serve\n
  bosal generate "Name three rivers."\n
  bosal recipes
"""


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
      bosal generate "Name a river." --json > record.json\n
      bosal generate --batch in.jsonl --out out.jsonl --seed 7
    """
    if (batch is None) != (out is None):
        raise typer.BadParameter("--batch and --out go together", param_hint="--batch")
    if batch is not None and prompt is not None:
        raise typer.BadParameter("give a prompt or --batch, not both", param_hint="PROMPT")
    if batch is None and concurrency is not None:
        raise typer.BadParameter("it is for --batch", param_hint="--concurrency")
    if batch is None and not as_json and logprobs is not None:
        raise typer.BadParameter("only --json and --batch show them", param_hint="--logprobs")
    asked = prompt_text(prompt) if batch is None else ""
    options = GenerationOptions(model=model)
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
    with connected(server) as client:
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


def models(as_json: AsJson = False, server: Server = DEFAULT_SERVER) -> None:
    """List the models the server serves.

    [bold]Examples[/bold]

      bosal models\n
      bosal models --server 10.0.0.7:50051
    """
    with connected(server) as client:
        every = client.models()
    show([asdict(one) for one in every]) if as_json else render.models(every)


def replay_record(
    record: Annotated[
        typer.FileBinaryRead,
        typer.Argument(help="What `bosal generate --json` wrote; '-' for standard input."),
    ],
    timeout: Timeout = None,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Issue a recorded request again and compare the tokens; exit 1 if they differ.

    [bold]Examples[/bold]

      bosal generate "Name a river." --json > record.json\n
      bosal replay record.json
    """
    try:
        recorded = replay.Record.parse(record.read())
    except replay.InvalidRecord as error:
        raise typer.BadParameter(str(error), param_hint="RECORD") from error
    with connected(server) as client:
        replayed = recorded.replay(client, timeout=timeout)
    for change in replayed.changes():
        render.warning(change)
    difference = replayed.difference()
    if difference is None:
        count = sum(len(ids) for ids in recorded.token_ids)
        typer.echo(f"equal: {count} tokens in {len(recorded.token_ids)} choices")
        return
    before, now = (
        "the end" if token is None else f"token {token}"
        for token in (difference.recorded, difference.replayed)
    )
    typer.echo(
        f"different: choice {difference.choice}, position {difference.position}: "
        f"was {before}, is {now}"
    )
    raise typer.Exit(1)


def application() -> typer.Typer:
    """Put the command together; parts that are installed add theirs."""
    app = typer.Typer(
        help=flowing(_HELP),
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in (generate, explain, compare, score, rules, models):
        app.command()(command)
    app.command("replay")(replay_record)
    app.add_typer(experiment_commands.app, name="experiments")
    app.add_typer(recipe_commands.app, name="recipes")
    for entry in sorted(entry_points(group="bosal.commands"), key=lambda entry: entry.name):
        _add(app, entry)
    flow(app)
    return app


def main() -> None:
    """Run the command line."""
    application()()


def _add(app: typer.Typer, entry: EntryPoint) -> None:
    """Add another part's command; one that cannot be imported says what to install."""
    try:
        command = entry.load()
    except ImportError as error:
        extra = entry.module.split(".")[0].removeprefix("bosal_")
        missing = error.name or str(error)

        @app.command(entry.name, help=f"Needs bosal\\[{extra}].")
        def unavailable() -> None:
            message = f"`bosal {entry.name}` needs {missing}: pip install 'bosal[{extra}]'"
            render.error(RuntimeError(message))
            raise typer.Exit(1)

        return
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=entry.name)
    else:
        app.command(entry.name)(command)
