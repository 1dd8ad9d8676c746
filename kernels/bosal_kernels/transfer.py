"""Copies between the host and a device: up without waiting for it, down all at once.

A copy out of memory that is not pinned waits for the device, and so does every copy back. So what
a step sends goes up pinned, and what it brings comes down by one copy, which is its one wait.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

# Tensors of one copy begin at multiples of so many numbers: Triton compiles a kernel again for
# pointers that are not aligned to 16 bytes.
_ALIGNMENT = 2


def sent(lists: Sequence[Any], device: torch.device) -> tuple[Tensor, ...]:
    """Return lists or arrays of integers as int64 tensors on a device, by one copy for all."""
    parts = [torch.as_tensor(one, dtype=torch.int64) for one in lists]
    if device.type != "cuda":
        return tuple(part.to(device) for part in parts)
    sizes = [len(part) for part in parts]
    padded = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    whole = torch.empty(sum(padded), dtype=torch.int64, pin_memory=True)
    for place, part in zip(torch.split(whole, padded), parts, strict=True):
        place[: len(part)] = part
    # The allocator of pinned memory keeps it until the copy is done.
    found = torch.split(whole.to(device, non_blocking=True), padded)
    return tuple(part[:size] for part, size in zip(found, sizes, strict=True))


def on_device(values: Any, device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return numbers, in lists or in a tensor on the host, as a tensor on a device."""
    found = torch.as_tensor(values, dtype=dtype)
    if device.type != "cuda":
        return found.to(device)
    return found.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=64)
def numbered(count: int, device: torch.device) -> Tensor:
    """Return 0, 1, 2, ... on a device; kept, so not to be changed, and for the rows of a batch."""
    return torch.arange(count, device=device)


def delivered(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one device on the host, by one copy: waits for all that makes them."""
    if not tensors or tensors[0].device.type == "cpu":
        return list(tensors)
    # Wide types first, so that each begins where its type may.
    order = sorted(range(len(tensors)), key=lambda place: -tensors[place].element_size())
    octets = [tensors[place].contiguous().view(-1).view(torch.uint8) for place in order]
    parts = torch.split(torch.cat(octets).cpu(), [len(part) for part in octets])
    found = list(tensors)
    for place, part in zip(order, parts, strict=True):
        found[place] = part.view(tensors[place].dtype).view(tensors[place].shape)
    return found
