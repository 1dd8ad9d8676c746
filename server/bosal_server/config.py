"""What a server is told at its start. Nothing else of this part reads the environment."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bosal_server.errors import ServerError

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class LogLevel(StrEnum):
    """How much a server says on standard error."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class RunnerPreference(StrEnum):
    """What is to compute the models."""

    AUTO = "auto"
    OPENVINO = "openvino"
    TORCH = "torch"


class InvalidConfig(ServerError):
    """Raised when a server is told to start in a way it cannot."""

    reason = "INVALID_CONFIG"
    code = "FAILED_PRECONDITION"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A model to serve: what requests call it, and where it is."""

    name: str
    # A local directory or a name on the Hugging Face hub.
    source: str

    @classmethod
    def parse(cls, text: str) -> "ModelConfig":
        """Read `SOURCE` or `NAME=SOURCE`; the name is the source's last part if not given."""
        name, equals, source = text.partition("=")
        if not equals:
            source = text
            name = Path(source).resolve().name if Path(source).exists() else source.split("/")[-1]
        if not _MODEL_NAME.fullmatch(name) or not source:
            raise InvalidConfig(
                f"model '{text}': give SOURCE or NAME=SOURCE, the name of letters, digits, "
                "'-', '_' and '.', at most 64"
            )
        return cls(name=name, source=source)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a request may ask for; one that asks for more is refused before any work."""

    max_request_bytes: int = 1024 * 1024
    max_choices: int = 16
    max_top_logprobs: int = 20
    max_messages: int = 256
    max_request_id_chars: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything `serve` needs, resolved from the command line and BOSAL_* variables."""

    # The first is the default. None: the embedded model.
    models: tuple[ModelConfig, ...] = ()
    host: str = "127.0.0.1"
    port: int = 50051
    metrics_host: str = "127.0.0.1"
    # -1: no metrics endpoint.
    metrics_port: int = 9464
    recipes: Path | None = None
    # A file, a URL or `temporary`. None: bosal/bosal.db in the user's data directory.
    database: str | None = None
    # None: `steered` with the embedded model, else `plain`.
    default_recipe: str | None = None
    device: str = "cpu"
    dtype: str = "auto"
    # `auto`: OpenVINO on a CPU where the model passes its self-check, else torch.
    runner: RunnerPreference = RunnerPreference.AUTO
    # Threads of a model's operators. None: one fewer than there are cores.
    threads: int | None = None
    # Folder of converted models. None: bosal/openvino in the user's cache directory.
    conversions: Path | None = None
    trust_remote_code: bool = False
    # Choices decoded at once; further requests wait.
    max_running: int = 64
    # Requests that may wait; further ones are refused.
    max_waiting: int = 256
    # Prompt tokens computed in one step beside the running choices' next tokens.
    max_batch_tokens: int = 1024
    # Key-value cache per model, in tokens. None: sized by the loader.
    cache_tokens: int | None = None
    # How long running requests may take to finish after SIGTERM.
    drain_seconds: float = 30.0
    # Of this server's own messages; those of libraries begin at WARNING.
    log_level: LogLevel = LogLevel.INFO
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def resolve_models(cls, texts: Sequence[str]) -> tuple[ModelConfig, ...]:
        """Read the models of a command line; two of one name are an error."""
        models = tuple(ModelConfig.parse(text) for text in texts)
        names = [model.name for model in models]
        for name in names:
            if names.count(name) > 1:
                raise InvalidConfig(
                    f"two models are called '{name}'; tell them apart with NAME=SOURCE"
                )
        return models
