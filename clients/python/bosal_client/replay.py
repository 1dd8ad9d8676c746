"""Records of finished requests, and issuing them again to see whether the tokens are the same."""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from bosal_client import results
from bosal_client.client import Client
from bosal_client.errors import InvalidRequest
from bosal_client.requests import GenerationOptions, generation_spec

__all__ = ["Difference", "InvalidRecord", "Record", "Replay", "dump", "plain"]


class InvalidRecord(ValueError):
    """Raised when a file is not a record `bosal generate --json` wrote."""


def dump(prompt: str, logprobs: int | None, generation: results.Generation) -> str:
    """Write a request and its result as the JSON that `Record.parse` reads."""
    request = {"prompt": prompt, "logprobs": logprobs}
    document = {"request": request, **asdict(generation)}
    return json.dumps(plain(document), indent=2, ensure_ascii=False)


def plain(value: Any) -> Any:
    """Give a result the form JSON has for it: bytes in base64, infinities by name."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What a recorded request was and which tokens it gave, choice by choice."""

    prompt: str
    logprobs: int | None
    started: Mapping[str, Any]
    token_ids: tuple[tuple[int, ...], ...]

    @classmethod
    def parse(cls, text: str | bytes) -> "Record":
        try:
            document = json.loads(text)
            record = cls(
                prompt=document["request"]["prompt"],
                logprobs=document["request"]["logprobs"],
                started=document["started"],
                token_ids=tuple(tuple(choice["token_ids"]) for choice in document["choices"]),
            )
            # Whatever else is wrong shows when the request is written.
            generation_spec(record.prompt, record.options())
            return record
        except (ValueError, KeyError, TypeError, AttributeError, InvalidRequest) as error:
            raise InvalidRecord(
                "not a record of `bosal generate --json`: "
                + (f"{error} is missing" if isinstance(error, KeyError) else str(error))
            ) from error

    def options(self) -> GenerationOptions:
        """Ask for exactly what was in force."""
        options = GenerationOptions(
            model=self.started["model"],
            recipe=self.started["recipe"],
            seed=self.started["seed"],
            max_tokens=self.started["max_tokens"],
            num_choices=self.started["num_choices"],
        )
        if self.logprobs is not None:
            options["logprobs"] = self.logprobs
        return options

    def replay(self, client: Client, *, timeout: float | None = None) -> "Replay":
        """Issue the request again."""
        generation = client.generate(self.prompt, timeout=timeout, **self.options())
        return Replay(record=self, generation=generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first position at which a choice's tokens differ; None where one had ended."""

    choice: int
    position: int
    recorded: int | None
    replayed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A record beside what its request gives now."""

    record: Record
    generation: results.Generation

    def difference(self) -> Difference | None:
        """Find the first choice and position at which tokens differ."""
        replayed = (choice.token_ids for choice in self.generation.choices)
        pairs = enumerate(zip_longest(self.record.token_ids, replayed, fillvalue=()))
        for choice, (recorded, again) in pairs:
            for position, (before, now) in enumerate(zip_longest(recorded, again)):
                if before != now:
                    return Difference(
                        choice=choice, position=position, recorded=before, replayed=now
                    )
        return None

    def changes(self) -> list[str]:
        """Name what differs between the recorded server and this one."""
        before, now = self.record.started, asdict(self.generation.started)
        lines = [
            f"{name} was {before.get(name)}, is {now[name]}"
            for name in ("model_digest", "recipe_version", "runner", "dtype", "device")
            if before.get(name) != now[name]
        ]
        old, new = before.get("versions", {}), now["versions"]
        lines += [
            f"version of {name} was {old.get(name, 'unknown')}, is {new.get(name, 'unknown')}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
        return lines
