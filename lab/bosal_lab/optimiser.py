"""Muon for the matrices, AdamW for the rest, over float32 masters of the model's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bosal_lab.muon import Muon


class Optimiser:
    """Steps a model's weights; holds the float32 masters and both optimisers' states."""

    def __init__(self, model: nn.Module, *, matrix_rate: float, other_rate: float) -> None:
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._masters = [weight.detach().float().clone() for weight in self._weights]
        names = [name for name, weight in model.named_parameters() if weight.requires_grad]
        matrices = [
            master
            for name, master in zip(names, self._masters, strict=True)
            if master.ndim == 2 and "embed" not in name
        ]
        chosen = {id(master) for master in matrices}
        others = [master for master in self._masters if id(master) not in chosen]
        self._muon = Muon(matrices, dtype=self._weights[0].dtype)
        self._adam = torch.optim.AdamW(others, lr=other_rate, betas=(0.9, 0.98), weight_decay=0.0)
        self._matrix_rate, self._other_rate = matrix_rate, other_rate

    def step(self, scale: float) -> None:
        """Take one step at `scale` times the rates and clear the gradients."""
        for group in self._adam.param_groups:
            group["lr"] = self._other_rate * scale
        for weight, master in zip(self._weights, self._masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        self._muon.step(self._matrix_rate * scale)
        self._adam.step()
        with torch.no_grad():
            for weight, master in zip(self._weights, self._masters, strict=True):
                weight.copy_(master)

    def state(self) -> dict[str, Any]:
        """Return what a later `restore` needs."""
        return {
            "masters": self._masters,
            "muon": self._muon.state_dict(),
            "adam": self._adam.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a saved state, weights included."""
        saved: list[Tensor] = state["masters"]
        with torch.no_grad():
            for weight, master, found in zip(self._weights, self._masters, saved, strict=True):
                master.copy_(found)
                weight.copy_(found)
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])
