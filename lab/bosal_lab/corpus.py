"""The corpus as one long row of token ids, its documents parted by the end token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bosal_lab.documents.genres import write
from bosal_lab.errors import DamagedFileError
from bosal_lab.storage import written
from bosal_lab.tokenizer import end_of
from bosal_lab.world import World

HELD_OUT = 400
_BATCH = 2000
Tokens = NDArray[np.uint16]


def texts(world: World, seed: int, start: int = 0) -> Iterator[str]:
    """Yield the corpus's documents from index `start` on, without end."""
    index = start
    while True:
        yield write(world, seed, index).text
        index += 1


def encode(tokenizer: Tokenizer, documents: list[str]) -> Tokens:
    """Encode documents, each closed by the end token."""
    end = end_of(tokenizer)
    ids: list[int] = []
    for encoded in tokenizer.encode_batch_fast(documents, add_special_tokens=False):
        ids += encoded.ids
        ids.append(end)
    return np.asarray(ids, dtype=np.uint16)


def write_corpus(
    path: Path,
    world: World,
    seed: int,
    tokenizer: Tokenizer,
    tokens: int,
    report: Callable[[int], None] = lambda count: None,
) -> int:
    """Write at least `tokens` ids to `path`; the first documents are left out for validation."""
    source = texts(world, seed, start=HELD_OUT)
    count = 0
    with written(path) as partial, partial.open("wb") as file:
        while count < tokens:
            ids = encode(tokenizer, list(islice(source, _BATCH)))
            file.write(ids.tobytes())
            count += len(ids)
            report(count)
    return count


def held_out(world: World, seed: int, tokenizer: Tokenizer) -> Tokens:
    """Return the validation documents, which training never reads."""
    return encode(tokenizer, list(islice(texts(world, seed), HELD_OUT)))


def read_corpus(path: Path, tokens: int = 1) -> Tokens:
    """Map a corpus of at least `tokens` ids into memory."""
    size = path.stat().st_size
    if size % 2:
        raise DamagedFileError(path, "not a whole number of ids")
    if size < 2 * tokens:
        raise DamagedFileError(path, f"{size // 2:,} ids, of {tokens:,}")
    return np.memmap(path, dtype=np.uint16, mode="r")
