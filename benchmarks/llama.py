"""llama.cpp's server beside the engine: the same weights, in a process of another Python."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.peer_process import PeerProcess

_PEER = Path(__file__).with_name("llama_peer.py")


class Llama(PeerProcess):
    """A server over a benchmark model; use it in `with`."""

    def __init__(self, python: Path, model: Any, *, threads: int, sequences: int) -> None:
        folder = TemporaryDirectory()
        export(model, Path(folder.name))
        super().__init__([python, _PEER, folder.name, threads, sequences], folder)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        """Return `seconds` and `tokens` of decoding all prompts at once."""
        return self.ask(prompts=prompts, new_tokens=new_tokens)


def export(model: Any, folder: Path) -> None:
    """Write a model's configuration and its weights in float32, a tied head once."""
    model.config.save_pretrained(folder)
    weights = model.state_dict()
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight")
    np.savez(folder / "weights.npz", **{name: w.float().numpy() for name, w in weights.items()})
