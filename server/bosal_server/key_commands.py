"""`bosal keys`: makes, lists and revokes API keys."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from bosal_server.config import InvalidConfig
from bosal_server.security.caller import Priority, Scope
from bosal_server.security.keys import MAX_COUNT, ApiKey, load_keys, make_key, save_keys

keys = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

KeyFile = Annotated[
    Path,
    typer.Option("--key-file", envvar="BOSAL_KEY_FILE", dir_okay=False, help="File of keys."),
]
_DEFAULT_FILE = Path("bosal-keys.json")
_SPAN = re.compile(r"(\d+)([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 168}
_MAX_HOURS = 100 * 365 * 24


@keys.callback()
def _keys() -> None:
    """The API keys of a server; a running one reads them again on SIGHUP."""


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; logged with calls that fail.")],
    scopes: Annotated[
        list[Scope],
        typer.Option("--scope", help="What it is for; may be repeated."),
    ] = [Scope.GENERATE],  # noqa: B006  typer copies it
    max_choices: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Choices waiting and running at once.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, max=MAX_COUNT, help="Prompt and output tokens together.")
    ] = None,
    max_priority: Annotated[
        str, typer.Option(help="Highest priority its requests may have: low, normal or high.")
    ] = "normal",
    expires: Annotated[
        str | None, typer.Option(metavar="SPAN", help="Ends after 12h, 90d, 4w, …")
    ] = None,
    key_file: KeyFile = _DEFAULT_FILE,
) -> None:
    """Make a key and print it: the only time it is shown, the file holds its hash.

    [bold]Examples[/bold]

      bosal keys create alice\n
      bosal keys create batch --max-choices 8 --tokens-per-minute 50000 --max-priority low\n
      bosal keys create ops --scope recipes --scope experiments --expires 90d
    """
    if max_priority.upper() not in Priority.__members__:
        raise typer.BadParameter(
            f"'{max_priority}' is none of low, normal, high", param_hint="--max-priority"
        )
    if not name.isprintable() or not 0 < len(name) <= 64:
        raise typer.BadParameter("at most 64 printable characters", param_hint="NAME")
    text, entry = make_key(
        name,
        scopes,
        max_choices=max_choices,
        tokens_per_minute=tokens_per_minute,
        max_priority=Priority[max_priority.upper()],
        expires=None if expires is None else _moment(expires),
    )
    with _changing(key_file) as entries:
        entries.append(entry)
    typer.echo(text)


@keys.command("list")
def list_keys(key_file: KeyFile = _DEFAULT_FILE) -> None:
    """List the keys of a file, without what would let anybody use them.

    [bold]Examples[/bold]

      bosal keys list
    """
    now = datetime.now(UTC)
    for key in _loaded(key_file):
        facts = [",".join(sorted(key.scopes))]
        if key.max_choices is not None:
            facts.append(f"{key.max_choices} choices")
        if key.tokens_per_minute is not None:
            facts.append(f"{key.tokens_per_minute} tokens a minute")
        facts.append(f"made {key.created.date()}")
        if key.expires is not None:
            word = "until" if now < key.expires else "EXPIRED"
            facts.append(f"{word} {key.expires.isoformat()}")
        typer.echo(f"{key.id}  {key.name}  {', '.join(facts)}")


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `bosal keys list` shows it.")],
    key_file: KeyFile = _DEFAULT_FILE,
) -> None:
    """Take a key out of its file; send the server SIGHUP for it to count.

    [bold]Examples[/bold]

      bosal keys revoke 3f2a8c01d9e4
    """
    with _changing(key_file) as entries:
        left = [key for key in entries if key.id != key_id]
        if len(left) == len(entries):
            raise typer.BadParameter(f"{key_file} holds no key '{key_id}'", param_hint="KEY_ID")
        entries[:] = left


def _loaded(path: Path) -> list[ApiKey]:
    try:
        return load_keys(path)
    except InvalidConfig as error:
        raise typer.BadParameter(str(error), param_hint="--key-file") from None


@contextmanager
def _changing(path: Path) -> Iterator[list[ApiKey]]:
    """Give the keys to change, and write them back; two commands at once take turns."""
    import fcntl

    # Whoever comes by another link must find the same lock.
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _loaded(path) if path.exists() else []
        yield entries
        try:
            save_keys(path, entries)
        except OSError as error:
            raise _unwritable(path, error) from None
    finally:
        os.close(lock)


def _unwritable(path: Path, error: OSError) -> typer.BadParameter:
    return typer.BadParameter(f"cannot write {path}: {error.strerror}", param_hint="--key-file")


def _moment(span: str) -> datetime:
    match = _SPAN.fullmatch(span)
    hours = int(match[1]) * _HOURS[match[2]] if match else 0
    if not 0 < hours <= _MAX_HOURS:
        raise typer.BadParameter(f"'{span}' is no span like 12h, 90d or 4w", param_hint="--expires")
    return (datetime.now(UTC) + timedelta(hours=hours)).replace(microsecond=0)
