"""Training: a warm-up, a constant rate, and a decay that any trunk checkpoint can be given."""

from __future__ import annotations

import csv
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Qwen3ForCausalLM

from bosal_lab import attention
from bosal_lab.batches import IGNORED, Batch, Source
from bosal_lab.chance import stream
from bosal_lab.corpus import Tokens
from bosal_lab.errors import DamagedFileError
from bosal_lab.family import Member
from bosal_lab.optimiser import Optimiser
from bosal_lab.storage import replace_text, written

Loss = Callable[[Qwen3ForCausalLM, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast a run goes."""

    steps: int
    part: int = 4096  # tokens a forward pass
    warm_up: int = 40
    decay_share: float = 0.3
    matrix_rate: float = 0.015
    other_rate: float = 0.003
    save_every: int = 100
    save_seconds: float = 60.0  # lost at most, however slow a step is

    @property
    def trunk(self) -> int:
        """Return the step at which the decay begins."""
        return self.steps - round(self.steps * self.decay_share)

    def scale(self, step: int) -> float:
        """Return the share of the full rate at a step."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        if step < self.trunk:
            return 1.0
        return (self.steps - step) / (self.steps - self.trunk)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a run stands."""

    step: int
    steps: int
    tokens: int
    loss: float
    seconds: float


def build_model(
    member: Member, vocabulary: int, end: int, seed: int, device: str = "cpu"
) -> Qwen3ForCausalLM:
    """Make an untrained model from a seed, in the device's training type."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights", member.name).getrandbits(63))
        model = Qwen3ForCausalLM(member.config(vocabulary, end))
    return prepare(model, device)


def training_dtype(device: str) -> torch.dtype:
    """Return bfloat16 where the device multiplies it fast, else float32.

    A CPU that has to emulate bfloat16 trains about four times slower in it.
    """
    if device != "cpu":
        return torch.bfloat16
    is_fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if is_fast else torch.float32


def prepare(model: Qwen3ForCausalLM, device: str) -> Qwen3ForCausalLM:
    """Make a model ready for training on a device."""
    model.set_attn_implementation(attention.register() if device == "cpu" else "sdpa")
    nn.Module.to(model, device=device, dtype=training_dtype(device))
    return model


def summed_loss(model: Qwen3ForCausalLM, ids: Tensor, labels: Tensor) -> Tensor:
    """Return the summed loss of the next token over the labelled places of [rows, length] ids."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return cross_entropy(
        logits.flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def loss_of(model: Qwen3ForCausalLM, batch: Batch, loss: Loss = summed_loss) -> Tensor:
    """Return the summed loss of a batch, wherever it lies."""
    return loss(model, batch.ids.to(model.device), batch.labels.to(model.device))


def num_labels(batch: Batch) -> int:
    """Count the places that carry a loss."""
    return int((batch.labels[:, 1:] != IGNORED).sum())


@torch.no_grad()
def evaluate(model: Qwen3ForCausalLM, tokens: Tokens, length: int = 512) -> float:
    """Return the mean loss on held-out tokens."""
    count = len(tokens) // length * length
    ids = torch.from_numpy(np.asarray(tokens[:count], dtype=np.int64)).reshape(-1, length)
    whole = Batch(ids=ids, labels=ids)
    total = sum(loss_of(model, part).item() for part in whole.parts(8192))
    return total / num_labels(whole)


class Run:
    """One member's training in one folder; a run that was cut short goes on where it stood.

    With `is_compiled` the forward and backward pass are compiled, once for each shape of a batch.
    """

    def __init__(
        self,
        model: Qwen3ForCausalLM,
        folder: Path,
        schedule: Schedule,
        *,
        is_compiled: bool = False,
    ) -> None:
        self.model = model
        self._loss: Loss = torch.compile(summed_loss, dynamic=False) if is_compiled else summed_loss
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self._saved_at = time.monotonic()
        self._folder = folder
        self._schedule = schedule
        self._optimiser = Optimiser(
            model, matrix_rate=schedule.matrix_rate, other_rate=schedule.other_rate
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()

    def _resume(self) -> None:
        """Take up the furthest checkpoint that lies on this schedule's path."""
        found = [_load(path) for name in ("last.pt", "trunk.pt")
                 if (path := self._folder / name).exists()]  # fmt: skip
        fitting = [
            saved
            for saved in found
            if saved["steps"] == self._schedule.steps
            or saved["step"] <= min(saved["trunk"], self._schedule.trunk)
        ]
        if fitting:
            best = max(fitting, key=lambda saved: int(saved["step"]))
            self._optimiser.restore(best["state"])
            self.step, self.tokens = best["step"], best["tokens"]
            self.seconds = best["seconds"]
        self._forget_later_losses()

    def _forget_later_losses(self) -> None:
        """Cut from the curve what was trained after the checkpoint, and will be again."""
        path = self._folder / "loss.csv"
        if not path.exists():
            return
        kept = [
            line
            for line in path.read_text("utf-8").splitlines(keepends=True)
            if line.endswith("\n") and 0 < int(line.split(",")[0]) <= self.step
        ]
        replace_text(path, "".join(kept))

    def _save(self, name: str) -> None:
        saved = {
            "step": self.step,
            "steps": self._schedule.steps,
            "trunk": self._schedule.trunk,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "state": self._optimiser.state(),
        }
        with written(self._folder / name) as partial:
            torch.save(saved, partial)
        self._saved_at = time.monotonic()

    def train(self, source: Source, report: Callable[[Progress], None]) -> None:
        """Run to the end of the schedule."""
        steps = self._schedule.steps
        with (self._folder / "loss.csv").open("a", newline="") as file:
            rows = csv.writer(file)
            while self.step < steps:
                if self.step == self._schedule.trunk:
                    file.flush()
                    self._save("trunk.pt")
                loss = self._advance(source.at(self.step))
                rows.writerow((self.step, self.tokens, f"{loss:.4f}"))
                report(Progress(
                    step=self.step, steps=steps, tokens=self.tokens, loss=loss,
                    seconds=self.seconds,
                ))  # fmt: skip
                if self._is_time_to_save():
                    file.flush()
                    self._save("last.pt")

    def _is_time_to_save(self) -> bool:
        is_due = self.step % self._schedule.save_every == 0 or self.step == self._schedule.steps
        return is_due or time.monotonic() - self._saved_at > self._schedule.save_seconds

    def _advance(self, batch: Batch) -> float:
        """Take one step; the parts of a batch stay in the cache one after the other."""
        started = time.monotonic()
        labels, total = num_labels(batch), 0.0
        for part in batch.parts(self._schedule.part):
            loss = loss_of(self.model, part, self._loss) / labels
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
            self.tokens += part.ids.numel()
        self._optimiser.step(self._schedule.scale(self.step))
        self.step += 1
        self.seconds += time.monotonic() - started
        return total


def _load(path: Path) -> dict[str, Any]:
    try:
        # On the processor, wherever it was written: another machine may go on.
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DamagedFileError(path, why) from error
    return saved
