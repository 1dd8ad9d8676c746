"""`bosal rules`: what recipes are made of."""

import difflib
from dataclasses import asdict
from typing import Annotated, Any

import typer

from bosal_client import descriptions, errors, rule_view
from bosal_client.connection import DEFAULT_SERVER
from bosal_client.invocation import AsJson, Server, connected, show

__all__ = ["rules"]


def rules(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.")] = None,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
) -> None:
    """List the rules recipes are made of, or show one with its parameters.

    [bold]Examples[/bold]

      bosal rules\n
      bosal rules eos_ramp
    """
    with connected(server) as client:
        every = {one.rule: one for one in client.rules()}
        if name is not None and name not in every:
            close = difflib.get_close_matches(name[:100], every, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"the rules are {', '.join(every)}"
            raise errors.NotFound(f"no rule is named '{name[:100]}', {hint}")
    if name is not None:
        show(_named(every[name])) if as_json else rule_view.rule(every[name])
        return
    show([_named(one) for one in every.values()]) if as_json else rule_view.rules(every.values())


def _named(rule: descriptions.Rule) -> dict[str, Any]:
    """Return a rule for programs, under the name every listing gives its things."""
    fields = asdict(rule)
    return {"name": fields.pop("rule"), **fields}
