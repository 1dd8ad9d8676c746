"""The family of models: their shapes and how long each is trained."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import Qwen3Config

from bosal_lab.errors import UnknownNameError
from bosal_lab.tokenizer import CONTEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model: a shape trained on the corpus, or the tuned twin of another."""

    name: str
    layers: int
    hidden: int
    mlp: int
    heads: int
    kv_heads: int
    tokens: int
    parent: str | None = None

    def config(self, vocabulary: int, end: int) -> Qwen3Config:
        """Return the Hugging Face configuration."""
        return Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            intermediate_size=self.mlp,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.hidden // self.heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=end,
            pad_token_id=None,
            use_cache=True,
        )


_BASE = Member(
    name="base", layers=5, hidden=256, mlp=704, heads=4, kv_heads=2, tokens=12_000_000
)  # fmt: skip
_SMALL = Member(
    name="base-small", layers=3, hidden=192, mlp=512, heads=3, kv_heads=1, tokens=8_000_000
)  # fmt: skip
_AMATEUR = Member(
    name="amateur", layers=2, hidden=128, mlp=352, heads=4, kv_heads=2, tokens=4_000_000
)  # fmt: skip


def _twin(of: Member, name: str, tokens: int) -> Member:
    return Member(
        name=name, layers=of.layers, hidden=of.hidden, mlp=of.mlp, heads=of.heads,
        kv_heads=of.kv_heads, tokens=tokens, parent=of.name,
    )  # fmt: skip


FAMILY: dict[str, Member] = {
    member.name: member
    for member in (
        _BASE,
        _AMATEUR,
        _SMALL,
        _twin(_BASE, "tuned", 800_000),
        _twin(_SMALL, "tuned-small", 800_000),
    )
}


def member(name: str) -> Member:
    """Return a member by name."""
    if name not in FAMILY:
        raise UnknownNameError("model", name, FAMILY)
    return FAMILY[name]
