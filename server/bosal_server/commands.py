"""The subcommands `serve` and `demo`. Light: what they need is imported when they run."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bosal_server.config import InvalidConfig, Limits, LogLevel, RunnerPreference, ServerConfig

_DEFAULTS = ServerConfig()


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]SOURCE",
            envvar="BOSAL_MODELS",
            help="A local directory or a Hugging Face name; may be repeated, the first is the "
            "default. Without it the embedded model is served.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(envvar="BOSAL_HOST", help="Address to listen at.")
    ] = _DEFAULTS.host,
    port: Annotated[
        int, typer.Option(envvar="BOSAL_PORT", min=0, max=65535, help="0: any free port.")
    ] = _DEFAULTS.port,
    metrics_host: Annotated[
        str, typer.Option(envvar="BOSAL_METRICS_HOST", help="Address of /metrics.")
    ] = _DEFAULTS.metrics_host,
    metrics_port: Annotated[
        int,
        typer.Option(
            envvar="BOSAL_METRICS_PORT", min=-1, max=65535, help="0: any free port; -1: none."
        ),
    ] = _DEFAULTS.metrics_port,
    recipes: Annotated[
        Path | None,
        typer.Option(
            envvar="BOSAL_RECIPES",
            exists=True,
            file_okay=False,
            help="Folder of recipes (YAML or JSON) to serve beside the shipped ones.",
        ),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            envvar="BOSAL_DATABASE",
            metavar="FILE|URL|temporary",
            help="Where created recipes are kept: a SQLite file, postgresql://…, or temporary, "
            "gone when the server ends. Default: bosal/bosal.db in the user's data directory.",
        ),
    ] = None,
    default_recipe: Annotated[
        str | None,
        typer.Option(
            envvar="BOSAL_DEFAULT_RECIPE",
            help="Serves requests that name none. Default: steered for the embedded model, "
            "else plain.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(envvar="BOSAL_DEVICE", help="cpu, cuda, cuda:1, …")
    ] = _DEFAULTS.device,
    dtype: Annotated[
        str, typer.Option(envvar="BOSAL_DTYPE", help="auto, float32, bfloat16 or float16.")
    ] = _DEFAULTS.dtype,
    runner: Annotated[
        RunnerPreference,
        typer.Option(
            envvar="BOSAL_RUNNER",
            help="auto: OpenVINO on a CPU where the model passes a self-check against torch, "
            "else torch.",
        ),
    ] = _DEFAULTS.runner,
    threads: Annotated[
        int | None,
        typer.Option(
            envvar="BOSAL_THREADS",
            min=1,
            help="Threads of a model's operators. Default: one fewer than there are cores.",
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            envvar="BOSAL_TRUST_REMOTE_CODE",
            help="Run Python code that comes with a model.",
        ),
    ] = False,
    max_running: Annotated[
        int,
        typer.Option(envvar="BOSAL_MAX_RUNNING", min=1, help="Choices decoded at once."),
    ] = _DEFAULTS.max_running,
    max_waiting: Annotated[
        int,
        typer.Option(
            envvar="BOSAL_MAX_WAITING", min=1, help="Requests that may wait before one is refused."
        ),
    ] = _DEFAULTS.max_waiting,
    max_batch_tokens: Annotated[
        int,
        typer.Option(envvar="BOSAL_MAX_BATCH_TOKENS", min=1, help="Most tokens in one step."),
    ] = _DEFAULTS.max_batch_tokens,
    cache_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="BOSAL_CACHE_TOKENS",
            min=1,
            help="Key-value cache of each model, in tokens.",
        ),
    ] = None,
    max_request_bytes: Annotated[
        int,
        typer.Option(envvar="BOSAL_MAX_REQUEST_BYTES", min=1024, help="Largest request read."),
    ] = _DEFAULTS.limits.max_request_bytes,
    drain_seconds: Annotated[
        float,
        typer.Option(
            envvar="BOSAL_DRAIN_SECONDS",
            min=0,
            help="How long running requests may take to end after SIGTERM or Ctrl-C.",
        ),
    ] = _DEFAULTS.drain_seconds,
    log_level: Annotated[
        LogLevel,
        typer.Option(
            envvar="BOSAL_LOG_LEVEL", case_sensitive=False, help="What is said on standard error."
        ),
    ] = _DEFAULTS.log_level,
) -> None:
    """Serve one or more models over gRPC until Ctrl-C or SIGTERM.

    Prints one line when ready. Every option can also be set by its environment variable.

    [bold]Examples[/bold]

      bosal serve\n
      bosal serve --model Qwen/Qwen3-0.6B-Base --default-recipe rules\n
      bosal serve --model small=./small --model large=./large --recipes ./recipes
    """
    try:
        config = ServerConfig(
            models=ServerConfig.resolve_models(models or ()),
            host=host,
            port=port,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            recipes=recipes,
            database=database,
            default_recipe=default_recipe,
            device=device,
            dtype=dtype,
            runner=runner,
            threads=threads,
            trust_remote_code=trust_remote_code,
            max_running=max_running,
            max_waiting=max_waiting,
            max_batch_tokens=max_batch_tokens,
            cache_tokens=cache_tokens,
            drain_seconds=drain_seconds,
            log_level=log_level,
            limits=Limits(max_request_bytes=max_request_bytes),
        )
    except InvalidConfig as error:
        raise typer.BadParameter(str(error)) from None
    # Read by torch when it is imported: threads that spin for work starve the model's.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from bosal_server import main
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from None
    raise typer.Exit(main.serve(config))


def demo(
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="[NAME=]SOURCE",
            help="Serve this model instead of the embedded one.",
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Shown beside `plain`.")
    ] = "steered",
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 96,
    seed: Annotated[int, typer.Option(help="Makes the answers repeatable.")] = 1,
) -> None:
    """Start a server, ask a base model without and with rules, and stop the server.

    [bold]Examples[/bold]

      bosal demo\n
      bosal demo --model Qwen/Qwen3-0.6B-Base
    """
    try:
        from bosal_server import demo as demonstration
    except ModuleNotFoundError as error:
        raise _missing_extra(error) from None
    code = demonstration.run(models or (), recipe=recipe, max_tokens=max_tokens, seed=seed)
    raise typer.Exit(code)


def _missing_extra(error: ModuleNotFoundError) -> typer.Exit:
    typer.echo(f"error: the server needs {error.name}: pip install 'bosal[server]'", err=True)
    return typer.Exit(1)
