"""Pictures of a run."""

from __future__ import annotations

import csv
from pathlib import Path

from matplotlib.figure import Figure


def plot_loss(folder: Path, title: str) -> Path:
    """Draw `loss.csv` of a run beside it."""
    with (folder / "loss.csv").open(newline="") as file:
        rows = [(int(tokens), float(loss)) for _, tokens, loss in csv.reader(file)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([tokens / 1e6 for tokens, _ in rows], [loss for _, loss in rows], linewidth=0.8)
    axes.set(title=title, xlabel="tokens read (millions)", ylabel="loss (nats a token)")
    axes.grid(alpha=0.3)
    path = folder / "loss.png"
    figure.savefig(path, dpi=120)
    return path
