"""A file of requests and the file of their answers, one JSON value a line."""

import difflib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Self

from bosal_client import results
from bosal_client.errors import BosalError, InvalidRequest
from bosal_client.replay import plain
from bosal_client.requests import GenerationOptions, Message, Prompt, generation_spec

__all__ = ["Answers", "BatchError", "BatchRequest", "read_requests"]

_OPTIONS = frozenset(GenerationOptions.__annotations__) - {"request_id"}
_FIELDS = ("id", "prompt", "messages", *sorted(_OPTIONS))


class BatchError(ValueError):
    """Raised when a file of requests or answers cannot be used, or cannot be used any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchRequest:
    """One line of a batch."""

    # Counted from 1.
    line: int
    # The user's own, if the line has one.
    id: str | int | None
    prompt: Prompt
    options: GenerationOptions
    # Of all that is asked, so that an answer is never taken for another request's.
    digest: str


def read_requests(file: Path, defaults: GenerationOptions) -> Iterator[BatchRequest]:
    """Read a batch line by line; `defaults` hold for what a line leaves out.

    A line is a prompt as a JSON string, or an object with `prompt` or `messages`, an `id` if
    wanted, and options of `generate`. Empty lines are skipped.

    Raises:
        BatchError: a line is not that; it is named.
    """
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _request(f"{file}:{number}", number, line, defaults)
    except OSError as error:
        raise BatchError(f"{file}: {error.strerror}") from error


def _request(where: str, number: int, line: bytes, defaults: GenerationOptions) -> BatchRequest:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BatchError(f"{where}: not JSON: {error}") from error
    fields = {"prompt": value} if isinstance(value, str) else value
    if not isinstance(fields, dict):
        raise BatchError(f"{where}: must be a string or an object")
    for name in fields:
        if name not in _FIELDS:
            close = difflib.get_close_matches(name[:100], _FIELDS, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(_FIELDS)}"
            raise BatchError(f"{where}: unknown field '{name[:100]}', {hint}")
    if ("prompt" in fields) == ("messages" in fields):
        raise BatchError(f"{where}: give either 'prompt' or 'messages'")
    identity = fields.get("id")
    if not (identity is None or isinstance(identity, str | int)) or isinstance(identity, bool):
        raise BatchError(f"{where}: 'id' must be a string or a whole number")
    if not isinstance(fields.get("prompt", ""), str):
        raise BatchError(f"{where}: 'prompt' must be a string")
    if not isinstance(fields.get("messages", []), list):
        raise BatchError(f"{where}: 'messages' must be a list")
    options = defaults.copy()
    options.update({name: fields[name] for name in fields if name in _OPTIONS})  # type: ignore[typeddict-item]
    try:
        prompt = fields["prompt"] if "prompt" in fields else _messages(fields["messages"])
        spec = generation_spec(prompt, options)
    except (InvalidRequest, TypeError, ValueError, AttributeError, KeyError) as error:
        raise BatchError(f"{where}: {error}") from error
    spec.request_id = ""
    asked = spec.SerializeToString(deterministic=True)
    digest = hashlib.sha256(asked).hexdigest()[:16]
    return BatchRequest(line=number, id=identity, prompt=prompt, options=options, digest=digest)


def _messages(turns: list[Any]) -> list[Message]:
    for turn in turns:
        if (
            not isinstance(turn, dict)
            or turn.keys() != {"role", "text"}
            or turn["role"] not in ("user", "assistant")
        ):
            raise ValueError("a message is {'role': 'user' or 'assistant', 'text': …}")
    return [Message(**turn) for turn in turns]


class Answers:
    """The file that answers are appended to, each as soon as there is one. Use it in `with`.

    What an interrupted run left is kept: a half-written last line is cut off, and answers that
    were errors are dropped, so that their requests are tried again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        # Digest by line of the requests that are answered.
        self._done: dict[int, str] = {}
        self._out: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._open()
            if not self._recover():
                self._open()
        except BlockingIOError as error:
            self.__exit__()
            raise BatchError(f"{self._file}: another batch writes to it") from error
        except OSError as error:
            self.__exit__()
            raise BatchError(f"{self._file}: {error.strerror}") from error
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._out is not None:
            self._out.close()

    def has(self, request: BatchRequest) -> bool:
        """Tell whether a request is answered.

        Raises:
            BatchError: the file holds an answer to another request in its place.
        """
        digest = self._done.get(request.line)
        if digest is not None and digest != request.digest:
            raise BatchError(
                f"{self._file}: holds the answer to another request for line {request.line}; "
                "give --out another name to ask anew"
            )
        return digest is not None

    def add(self, request: BatchRequest, outcome: results.Generation | BosalError) -> None:
        """Append an answer, or why there is none."""
        head = {"line": request.line, "id": request.id, "digest": request.digest}
        if isinstance(outcome, BosalError):
            body: dict[str, Any] = {"error": _failure(outcome)}
        else:
            body = {"text": outcome.text, **asdict(outcome)}
            if isinstance(request.options.get("recipe"), str):
                del body["started"]["recipe"]  # Its name and version say as much.
        line = json.dumps(plain(head | body), ensure_ascii=False) + "\n"
        assert self._out is not None
        try:
            self._out.write(line.encode())
            self._out.flush()
        except OSError as error:
            raise BatchError(f"{self._file}: {error.strerror}") from error

    def _open(self) -> None:
        """Open the file for one process alone."""
        if self._out is not None:
            self._out.close()
        self._out = self._file.open("ab+")
        fcntl.flock(self._out, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _recover(self) -> bool:
        """Learn what is answered; replace the file, and say False, if some lines are to go."""
        assert self._out is not None
        kept = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        is_whole = True
        self._out.seek(0)
        try:
            with kept.open("wb") as rewritten:
                for number, line in enumerate(self._out, start=1):
                    if line.endswith(b"\n") and self._learn(number, line):
                        rewritten.write(line)
                    else:
                        is_whole = False
                rewritten.flush()
                os.fsync(rewritten.fileno())
            if not is_whole:
                kept.replace(self._file)
        finally:
            kept.unlink(missing_ok=True)
        return is_whole

    def _learn(self, number: int, line: bytes) -> bool:
        try:
            answer = json.loads(line)
            key, digest = answer["line"], answer["digest"]
        except (ValueError, KeyError, TypeError) as error:
            raise BatchError(f"{self._file}:{number}: not an answer of a batch") from error
        if "error" in answer:
            return False
        self._done[key] = digest
        return True


def _failure(error: BosalError) -> dict[str, str]:
    return {
        "type": type(error).__name__,
        "reason": error.reason,
        "field": error.field,
        "message": str(error),
    }
