"""The least logit that scales to some floor, found exactly among the floats."""

import torch
from torch import Tensor

from bosal_kernels.floats import clamped_key, value_of_descending_key

# Parts into which a range of floats is cut in one step of a search.
_FAN = 64


def least_logit(row_max: Tensor, inverse: Tensor, floor: Tensor) -> Tensor:
    """Return the least float32 z with (z - row_max) * inverse >= floor, rounded twice; all [k]."""
    row_max, inverse, floor = row_max[:, None], inverse[:, None], floor[:, None]

    def passes(key: Tensor) -> Tensor:
        return (value_of_descending_key(key) - row_max).mul_(inverse) >= floor

    guess = row_max.double() + floor.double() / inverse.double()
    # It is hardly ever further away from the guess than this many floats. Keys descend.
    near = clamped_key(guess) + torch.arange(-_FAN // 2, _FAN // 2, device=floor.device)
    number = passes(near).sum(1, keepdim=True)
    if not bool(((number == 0) | (number == _FAN)).any()):
        return value_of_descending_key(near.gather(1, number - 1).squeeze(1))
    slack = 3e-7 * (row_max.abs() + guess.abs()) + 1e-37
    # `low` belongs to a logit that passes, `high` to one that does not.
    low, high = clamped_key(guess + slack), clamped_key(guess - slack)
    steps = torch.arange(1, _FAN, device=floor.device)
    while True:
        # Cut each range in equal parts and keep the part in which passing ends.
        stride = -(-int((high - low).max()) // _FAN)
        low = low + passes(low + steps * stride).sum(1, keepdim=True) * stride
        if stride <= 1:
            return value_of_descending_key(low.squeeze(1))
        high = low + stride
