"""The order of float32 numbers as integers, and exact rounding."""

import torch
from torch import Tensor


def descending_key(values: Tensor) -> Tensor:
    """Map float32 to int64 in [0, 2^32) so that greater values come first; -0 equals 0."""
    bits = (values + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFF_FFFF)
    return 0x7FFF_FFFF - ordered.long()


def value_of_descending_key(key: Tensor) -> Tensor:
    """Invert `descending_key`."""
    ordered = (0x7FFF_FFFF - key).int()
    return (ordered ^ ((ordered >> 31) & 0x7FFF_FFFF)).view(torch.float32)


def clamped_key(value: Tensor) -> Tensor:
    """Return the descending keys of float64 values, rounded to the finite float32."""
    largest = torch.finfo(torch.float32).max
    return descending_key(value.clamp(-largest, largest).float())


def rounded_up(value: Tensor) -> Tensor:
    """Return the least float32 that is not less than a float64."""
    rounded = value.float()
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < value, above, rounded)
