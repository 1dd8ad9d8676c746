"""The command line of a server, made of its settings.

Precedence: a flag, then the setting's variable, then bosal.toml, then the default.
"""

import difflib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from bosal_server import config_file
from bosal_server.config import InvalidConfig, ServerConfig
from bosal_server.settings import Setting, build, settings_of

SETTINGS = tuple(settings_of(ServerConfig))
# Read by the client's commands.
CLIENT_VARIABLES = (
    "BOSAL_SERVER",
    "BOSAL_API_KEY",
    "BOSAL_TLS_CA",
    "BOSAL_CLIENT_CERTIFICATE",
    "BOSAL_CLIENT_KEY",
)
# As alike as two names are when one letter is wrong; Kubernetes adds variables of its own.
_MISSPELLED = 0.92


class Origin(StrEnum):
    """Where a setting's value comes from; the first that there is."""

    FLAG = "flag"
    VARIABLE = "variable"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A whole configuration, and where each of its values comes from."""

    config: ServerConfig
    # By setting; lists are lists of texts.
    values: dict[str, Any]
    origins: dict[str, Origin]
    file: Path | None


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--config` and one option for each setting.

    It takes what they come to, and options of its own.
    """
    own = list(inspect.signature(command).parameters.values())[1:]

    def run(context: typer.Context, config: Path | None, **values: Any) -> None:
        others = {one.name: values.pop(one.name) for one in own}
        command(_resolve(context, values, config), **others)

    parameters = [
        _parameter("context", typer.Context),
        _parameter(
            "config",
            Annotated[
                Path | None,
                typer.Option(
                    envvar="BOSAL_CONFIG",
                    is_eager=True,
                    callback=_read_file,
                    help="File of settings. Default: bosal.toml in the working directory, if any.",
                ),
            ],
            None,
        ),
        *(_parameter(one.name, one.annotation, one.default) for one in own),
        *(_parameter(one.name, _annotation(one), _default(one)) for one in SETTINGS),
    ]
    # typer reads the options off the signature and off the annotations.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> Any:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, annotation=annotation, default=default)


def _annotation(one: Setting) -> Any:
    number = one.kind in (int, float)
    option = typer.Option(
        *(
            f"{flag}/--no-{flag.removeprefix('--')}" if one.kind is bool else flag
            for flag in one.flags
        ),
        envvar=one.variable,
        help=one.help,
        min=one.minimum if number else None,
        max=one.maximum if number else None,
        metavar=one.metavar,
        exists=one.must_be is not None,
        file_okay=one.must_be != "folder",
        dir_okay=one.must_be != "file",
        case_sensitive=False,
    )
    kind: Any = list[str] if one.is_list else one.kind
    if one.is_list or one.default is None:
        kind = kind | None
    return Annotated[kind, option]


def _default(one: Setting) -> Any:
    return None if one.is_list else one.default


def check_variables(environment: Mapping[str, str]) -> None:
    """Refuse a variable that misspells a setting's; others may be somebody else's.

    Raises:
        InvalidConfig: names it and the setting's.
    """
    known = {"BOSAL_CONFIG", *CLIENT_VARIABLES, *(one.variable for one in SETTINGS)}
    for name in environment:
        if name.startswith("BOSAL_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=_MISSPELLED)
            if near:
                raise InvalidConfig(f"there is no variable {name}; did you mean {near[0]}?")


def _read_file(context: typer.Context, path: Path | None) -> Path | None:
    """Let the file's values take the place of the defaults, before other options are read."""
    if path is None:
        path = Path(config_file.NAME)
        if not path.is_file():
            return None
    try:
        context.default_map = config_file.read(path, SETTINGS)
    except InvalidConfig as error:
        raise typer.BadParameter(str(error)) from None
    return path


def _resolve(context: typer.Context, values: dict[str, Any], file: Path | None) -> Resolved:
    try:
        check_variables(os.environ)
    except InvalidConfig as error:
        raise typer.BadParameter(str(error)) from None
    origins = {one.name: _origin(context, one.name) for one in SETTINGS}
    values = {
        one.name: list(values[one.name] or ()) if one.is_list else values[one.name]
        for one in SETTINGS
    }
    parsed = dict(values)
    try:
        for one in SETTINGS:
            if one.parse is not None:
                parsed[one.name] = one.parse(values[one.name])
        config: ServerConfig = build(ServerConfig, parsed)
    except InvalidConfig as error:
        raise typer.BadParameter(str(error)) from None
    return Resolved(config, values, origins, file)


def _origin(context: typer.Context, name: str) -> Origin:
    source = context.get_parameter_source(name)
    by_name = {
        "COMMANDLINE": Origin.FLAG,
        "ENVIRONMENT": Origin.VARIABLE,
        "DEFAULT_MAP": Origin.FILE,
    }
    return Origin.DEFAULT if source is None else by_name.get(source.name, Origin.DEFAULT)
