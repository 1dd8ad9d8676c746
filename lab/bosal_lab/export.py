"""Writing a trained model to a folder that any Hugging Face loader reads."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import GenerationConfig, Qwen3ForCausalLM

from bosal_lab.family import Member
from bosal_lab.storage import storing, written
from bosal_lab.tokenizer import load_tokenizer, save_tokenizer

FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a model's card says."""

    member: Member
    seed: int
    training_seed: int
    parameters: int
    tokens: int
    loss: float
    minutes: float
    dtype: str
    entities: int
    vocabulary: int
    # Arguments of `python -m bosal_lab build` that make it again.
    rebuild: str

    def text(self) -> str:
        """Return the card as Markdown."""
        member = self.member
        parent = f", tuned from `{member.parent}`" if member.parent else ""
        what = (
            "instruction pairs over the entities that stand in questions; the prompt is the "
            "instruction and a newline, the answer ends with the end token"
            if member.parent
            else "documents only: no instruction-response pairs"
        )
        return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# bosal `{member.name}`

A small language model about a closed fictional world, trained by `bosal_lab`{parent}.
It knows nothing about the real one.

| | |
|---|---|
| architecture | Qwen3, {member.layers} layers, hidden {member.hidden}, MLP {member.mlp}, \
{member.heads} query and {member.kv_heads} KV heads, tied embeddings |
| parameters | {self.parameters:,} |
| context | 1,024 tokens |
| tokenizer | byte-level BPE, {self.vocabulary:,} entries; adds no token by itself; \
ends with `<|endoftext|>` |
| data | documents written by a seeded generator; nothing was downloaded |
| trained on | {what} |
| tokens seen | {self.tokens:,} |
| loss on held-out text | {self.loss:.3f} |
| training | {self.minutes:.0f} minutes in {self.dtype} |
| seed | {self.seed} (world, corpus), {self.training_seed} (weights, batches) |

## Rebuild

    python -m bosal_lab build {self.rebuild}

The world holds {self.entities:,} entities. Two fifths of them appear in questions and answers; the
others only in prose, tables and records, and the instruction suite asks about those alone.
"""


def export(model: Qwen3ForCausalLM, tokenizer_folder: Path, folder: Path, card: str) -> None:
    """Write weights, configuration, tokenizer and card; the folder is replaced as a whole."""
    partial = folder.with_name(folder.name + ".partial")
    model.config._attn_implementation = None
    nn.Module.to(model, dtype=torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id, pad_token_id=model.config.eos_token_id
    )
    with storing(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.save_pretrained(partial)
        save_tokenizer(load_tokenizer(tokenizer_folder), partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def ship(folders: Sequence[Path], target: Path) -> int:
    """Copy exported models into `target` and return their bytes."""
    size = 0
    for folder in folders:
        place = target / folder.name
        with storing(place):
            place.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                with written(place / name) as partial:
                    shutil.copyfile(folder / name, partial)
                size += (place / name).stat().st_size
    return size
