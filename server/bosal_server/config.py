"""What a server is told at its start. Nothing else of this part reads the environment."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from bosal_server.errors import ServerError
from bosal_server.limits import Limits
from bosal_server.settings import setting

# No wait of a server is meant to be longer, and an infinite one is none.
_DAY = 86_400.0
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class LogLevel(StrEnum):
    """How much a server says on standard error."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class LogFormat(StrEnum):
    """How it says it."""

    TEXT = "text"
    JSON = "json"


class RunnerPreference(StrEnum):
    """What is to compute the models."""

    AUTO = "auto"
    OPENVINO = "openvino"
    TORCH = "torch"


class WeightPrecision(StrEnum):
    """What weight matrices are rounded to."""

    MODEL = "model"
    INT8 = "int8"


class KVCachePrecision(StrEnum):
    """What cached keys and values are rounded to."""

    MODEL = "model"
    U8 = "u8"


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

    @classmethod
    def parse_all(cls, texts: Sequence[str]) -> "tuple[ModelConfig, ...]":
        """Read the models of a server; two of one name are an error."""
        models = tuple(cls.parse(text) for text in texts)
        names = [model.name for model in models]
        for name in names:
            if names.count(name) > 1:
                raise InvalidConfig(
                    f"two models are called '{name}'; tell them apart with NAME=SOURCE"
                )
        return models


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything `serve` needs.

    A field declared by `setting` is an option of the command line, a variable and a key of
    bosal.toml; the checks of its value and its place in the documentation come with it.
    """

    models: tuple[ModelConfig, ...] = setting(
        (),
        "A local directory, a Hugging Face name or an embedded model (base, tuned, …); may be "
        "repeated, the first is the default, and recipes may name the others. Without it the "
        "embedded base is served, with those of its family that recipes name.",
        metavar="[NAME=]SOURCE",
        flags=("--model", "-m"),
        parse=ModelConfig.parse_all,
    )
    host: str = setting("127.0.0.1", "Address to listen at.")
    port: int = setting(50051, "0: any free port.", minimum=0, maximum=65535)
    metrics_host: str = setting("127.0.0.1", "Address of /metrics.")
    metrics_port: int = setting(9464, "0: any free port; -1: none.", minimum=-1, maximum=65535)
    tls_certificate: Path | None = setting(
        None, "Certificate chain of the gRPC port, in PEM. Read again on SIGHUP.", must_be="file"
    )
    tls_key: Path | None = setting(None, "Its private key, in PEM.", must_be="file")
    tls_client_ca: Path | None = setting(
        None, "Clients must bring a certificate of this authority, in PEM.", must_be="file"
    )
    key_file: Path | None = setting(
        None,
        "API keys, as `bosal keys` writes them; calls must bring one. Read again on SIGHUP.",
        must_be="file",
    )
    allow_insecure: bool = setting(
        False,
        "Listen beyond this machine without API keys or without TLS, where something else keeps "
        "strangers out.",
    )
    shared_scaffolds: tuple[str, ...] = setting(
        (),
        "Recipe whose scaffold's cached keys and values API keys share; may be repeated. All "
        "else in the prefix cache belongs to the key that computed it.",
        metavar="RECIPE",
        flags=("--shared-scaffold",),
        parse=tuple,
    )
    recipes: Path | None = setting(
        None,
        "Folder of recipes (YAML or JSON) to serve beside the shipped ones.",
        must_be="folder",
    )
    database: str | None = setting(
        None,
        "Where recipes and experiments are kept: a SQLite file, postgresql://…, or temporary, "
        "gone when the server ends. Default: bosal/bosal.db in the user's data directory.",
        metavar="FILE|URL|temporary",
    )
    python_types: tuple[str, ...] = setting(
        (),
        "A Python type (pydantic model, Literal, Enum, …) that constraints may name; may be "
        "repeated. Its module is imported.",
        metavar="NAME=MODULE:OBJECT",
        flags=("--python-type",),
        parse=tuple,
    )
    delivery_filter: str | None = setting(
        None,
        "A function that is asked before every delivery whether a choice's text so far may leave: "
        "called with the text and whether it is whole, it returns True or False. Its module is "
        "imported.",
        metavar="MODULE:FUNCTION",
    )
    delivery_filter_seconds: float = setting(
        10.0,
        "How long it may take over a text, those before it included; then the request fails.",
        minimum=0.01,
        maximum=_DAY,
    )
    unit_key: Path | None = setting(
        None,
        "File with the key under which experiments store their units; made if it is not there. "
        "Servers that share a database must share it. Default: units.key beside the database.",
    )
    default_recipe: str | None = setting(
        None,
        "Serves requests that name none. Default: steered for the embedded model, else plain.",
    )
    device: str = setting("cpu", "cpu, cuda, cuda:1, …")
    dtype: str = setting("auto", "auto, float32, bfloat16 or float16.")
    runner: RunnerPreference = setting(
        RunnerPreference.AUTO,
        "auto: OpenVINO on a CPU where the model passes a self-check against torch, else torch.",
    )
    weights: WeightPrecision = setting(
        WeightPrecision.MODEL,
        "int8: weight matrices in eight bits, faster where memory is slow, no longer exact. "
        "OpenVINO only.",
    )
    kv_cache: KVCachePrecision = setting(
        KVCachePrecision.MODEL,
        "u8: keys and values in eight bits, half the memory of bfloat16, no longer exact. "
        "OpenVINO only.",
    )
    cascade_attention: bool = setting(
        False,
        "Requests that run side by side attend to a prefix they share, as a long scaffold, once "
        "for all of them. OpenVINO in float32 only; a last bit may differ from a request alone.",
    )
    threads: int | None = setting(
        None,
        "Threads of a model's operators. Default: one fewer than there are cores, which leaves "
        "one to the event loop, the tokenizer and the engine's own work.",
        minimum=1,
    )
    conversions: Path | None = setting(
        None, "Folder of converted models. Default: bosal/openvino in the user's cache directory."
    )
    trust_remote_code: bool = setting(False, "Run Python code that comes with a model.")
    max_running: int = setting(64, "Choices decoded at once.", minimum=1)
    max_waiting: int = setting(256, "Requests that may wait before one is refused.", minimum=1)
    max_waiting_tokens: int | None = setting(
        None,
        "Tokens, of prompts and the longest answers, of requests that wait. Default: no limit.",
        minimum=1,
    )
    max_queue_seconds: float = setting(
        30.0,
        "Time to the first token of a request that waits; one that would take longer is refused.",
        minimum=0.1,
        maximum=_DAY,
    )
    write_stall_seconds: float = setting(
        30.0,
        "How long a stream's reader may take nothing before its request is ended.",
        minimum=0.1,
        maximum=_DAY,
    )
    max_connections: int | None = setting(
        None,
        "Connections at once; one more is closed as it comes. Default: 10000, or what the "
        "process's limit of open files leaves.",
        minimum=1,
    )
    max_connection_idle_seconds: float = setting(
        600.0, "How long a connection without a call is kept.", minimum=1, maximum=_DAY
    )
    max_batch_tokens: int = setting(1024, "Most tokens in one step.", minimum=1)
    plugin_seconds: float = setting(
        1.0,
        "How long a rule of another package may hold up a step; requests whose rule takes longer "
        "fail.",
        minimum=0.001,
        maximum=_DAY,
    )
    constraint_share: float = setting(
        1 / 32,
        "Part of one processor that compiling constraints may take while choices run.",
        minimum=0.001,
        maximum=2,
    )
    cache_tokens: int | None = setting(
        None, "Key-value cache of each model, in tokens. Default: sized by the loader.", minimum=1
    )
    trace_endpoint: str | None = setting(
        None,
        "A collector of OpenTelemetry traces, by OTLP over gRPC: http://127.0.0.1:4317, say. Needs "
        "bosal[otel].",
        metavar="URL",
    )
    explain_share: float = setting(
        0.0,
        "Share of requests whose draws are explained for the metrics, from 0 to 1; requests that "
        "ask for explanations count beside them.",
        minimum=0,
        maximum=1,
    )
    max_explain_bytes: int = setting(
        2 * 1024**3,
        "Memory, for each model and on its device, of what explained choices are held against: "
        "their recipe less each of its rules. Choices wait for it as for the cache; one that needs "
        "more is refused.",
        minimum=1,
    )
    lame_duck_seconds: float = setting(
        2.0,
        "How long calls are still taken after SIGTERM, while health says NOT_SERVING already. "
        "Ctrl-C goes without.",
        minimum=0,
        maximum=_DAY,
    )
    drain_seconds: float = setting(
        30.0, "How long running requests may take to end after that.", minimum=0, maximum=_DAY
    )
    log_level: LogLevel = setting(LogLevel.INFO, "What is said on standard error.")
    log_format: LogFormat = setting(LogFormat.TEXT, "json: one object a line.")
    log_prompts: bool = setting(
        False, "Log what users write, with each request's id. Otherwise no log holds their text."
    )
    limits: Limits = field(default_factory=Limits)
