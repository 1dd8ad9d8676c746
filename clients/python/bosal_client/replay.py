"""Records of finished requests, and issuing them again to see whether the tokens are the same."""

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bosal_client import results
from bosal_client.client import Client
from bosal_client.requests import GenerationOptions

__all__ = ["Difference", "InvalidRecord", "Record", "Replay", "dump"]


class InvalidRecord(ValueError):
    """Raised when a file is not a record `bosal generate --json` wrote."""


def dump(prompt: str, logprobs: int | None, generation: results.Generation) -> str:
    """Write a request and its result as the JSON that `Record.parse` reads."""
    request = {"prompt": prompt, "logprobs": logprobs}
    document = {"request": request, **asdict(generation)}
    return json.dumps(document, indent=2, ensure_ascii=False, default=_base64)


def _base64(value: object) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"{type(value).__name__} has no JSON form")


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
            return cls(
                prompt=document["request"]["prompt"],
                logprobs=document["request"]["logprobs"],
                started=document["started"],
                token_ids=tuple(tuple(choice["token_ids"]) for choice in document["choices"]),
            )
        except (ValueError, KeyError, TypeError) as error:
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
        for choice, recorded in zip(self.generation.choices, self.record.token_ids, strict=True):
            replayed = choice.token_ids
            for position in range(max(len(recorded), len(replayed))):
                before = recorded[position] if position < len(recorded) else None
                now = replayed[position] if position < len(replayed) else None
                if before != now:
                    return Difference(
                        choice=choice.index, position=position, recorded=before, replayed=now
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
