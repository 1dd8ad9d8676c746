"""Files that are there whole or not at all, whenever the process ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from bosal_lab.errors import StageError, StorageError


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Tell a full disk from a fault: whatever cannot be written is a StorageError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch's writer: RuntimeError.
        why = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason"])[0]
        raise StorageError(f"{path} cannot be written: {why}; what is finished is kept") from error


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield the name to write under; the file gets its own once the block is done.

    Raises:
        StorageError: it could not be written; what was there before is untouched.
    """
    partial = path.with_name(path.name + ".partial")
    with storing(path):
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep a folder to one process.

    Raises:
        StageError: another one works in it.
    """
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StageError(f"another build works in {folder}") from None
        yield
