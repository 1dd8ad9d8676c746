"""The command `bosal score`."""

from dataclasses import asdict
from typing import Annotated

import typer

from bosal_client import constraint_flags, results
from bosal_client.connection import DEFAULT_SERVER
from bosal_client.constraint_flags import (
    AllowUnsupported,
    Choices,
    Grammar,
    PythonType,
    Regex,
    Schema,
)
from bosal_client.invocation import (
    AsJson,
    Assignments,
    Model,
    Recipe,
    RetrySeconds,
    Server,
    Timeout,
    connected,
    given_recipe,
    overrides,
    show,
)
from bosal_client.render import table
from bosal_client.replay import plain
from bosal_client.spelled import quoted

__all__ = ["score"]


def score(
    prompt: Annotated[str, typer.Argument(help="What is asked.")],
    answer: Annotated[str, typer.Argument(help="The answer to score.")],
    recipe: Recipe = "",
    model: Model = "",
    assignments: Assignments = None,
    schema: Schema = None,
    regex: Regex = None,
    choice: Choices = None,
    grammar: Grammar = None,
    python_type: PythonType = None,
    allow_unsupported: AllowUnsupported = False,
    timeout: Timeout = None,
    retry_seconds: RetrySeconds = 0.0,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Print the log-probability of an answer, token by token, before and after the rules.

    A line per token: the token, its log-probability and rank as the model has them, and under the
    rules; `forced` where a rule dictates the token. The last line has the sums.

    [bold]Examples[/bold]

      bosal score "Name a river." "The Rhine."\n
      bosal score "Is the sky blue?" "yes" --choice yes --choice no\n
      bosal score "Name a river." "The Rhine." --recipe plain --json
    """
    with connected(server, retry_seconds=retry_seconds) as client:
        found = client.score(
            prompt,
            answer,
            recipe=given_recipe(client, recipe),
            model=model,
            overrides=overrides(assignments or ()),
            constraint=constraint_flags.document(
                schema, regex, choice, grammar, python_type, allow_unsupported
            ),
            timeout=timeout,
        )
    if as_json:
        show(plain(asdict(found)))
        return
    table(("token", "raw", "rank", "controlled", "rank", ""), _rows(found))
    if found.constraint is not None:
        typer.echo(_said(found.constraint))


def _said(found: results.ConstraintScore) -> str:
    if found.forbidden_position is not None:
        return f"the constraint forbids the token at {found.forbidden_position}"
    return "the constraint holds" if found.is_complete else "the constraint wants more"


def _rows(found: results.Score) -> list[tuple[str, ...]]:
    logprobs = found.logprobs
    columns = zip(
        logprobs.token_bytes,
        logprobs.raw,
        logprobs.raw_rank,
        logprobs.controlled,
        logprobs.controlled_rank,
        strict=True,
    )
    rows = [
        (
            quoted(spelling),
            f"{raw:.4f}",
            str(rank),
            f"{controlled:.4f}",
            str(controlled_rank),
            "forced" if place in found.forced_positions else "",
        )
        for place, (spelling, raw, rank, controlled, controlled_rank) in enumerate(columns)
    ]
    total = ("", f"{found.raw_logprob:.4f}", "", f"{found.controlled_logprob:.4f}", "", "")
    return [*rows, total]
