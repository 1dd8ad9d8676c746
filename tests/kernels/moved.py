"""Batches of `mixed` on a device: all that a kernel reads, moved there."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from tests.kernels.mixed import Batch


def moved(given: Batch, device: str, *, is_aligned: bool = False) -> Batch:
    """Return a copy of a batch on a device; aligned rows are read 128 bits at a time."""
    streams = given.streams
    if is_aligned:
        width = -(-streams.shape[1] // 16) * 16
        wide = streams.new_full((len(streams), width), 99.0)
        wide[:, : streams.shape[1]] = streams
        streams = wide[:, : streams.shape[1]]
    stride = streams.stride(0)
    whole = torch.as_strided(streams, (len(streams), stride), (stride, 1))
    on_device = whole.to(device)[:, : streams.shape[1]]
    return replace(
        given,
        state=_moved(deepcopy(given.state), device),
        coupling=_moved(deepcopy(given.coupling), device),
        slots=given.slots.to(device),
        streams=on_device,
        base=given.base.to(device),
        depths=given.depths.to(device),
        legal=_moved(deepcopy(given.legal), device),
    )


def _moved(thing: Any, device: str) -> Any:
    if isinstance(thing, torch.Tensor):
        return thing.to(device)
    if isinstance(thing, torch.device):
        return torch.device(device)
    if isinstance(thing, tuple):
        return tuple(_moved(one, device) for one in thing)
    if type(thing).__module__.startswith("bosal_kernels"):
        slots: tuple[str, ...] = getattr(type(thing), "__slots__", ())
        for name in [*getattr(thing, "__dict__", {}), *slots]:
            object.__setattr__(thing, name, _moved(getattr(thing, name), device))
    return thing
