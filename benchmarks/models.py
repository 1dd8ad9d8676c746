"""The random-weight models figures are named after: `tiny`, `15m` and `500m`."""

from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

VOCABULARY_SIZE = 50_257
# So small that everything around it is what costs.
TINY = "tiny"
_TINY_VOCABULARY_SIZE = 400
SHAPES: dict[str, dict[str, int]] = {
    "15m": {
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "intermediate_size": 704,
    },
    # The width of a 0.5 B model, seven layers deep.
    "500m": {
        "hidden_size": 1024,
        "num_hidden_layers": 7,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
    },
}


def build(name: str, *, dtype: torch.dtype = torch.bfloat16) -> Any:
    """Return the model with weights drawn from seed 0, tied head, in evaluation mode."""
    config = Qwen3Config(
        vocab_size=VOCABULARY_SIZE,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=VOCABULARY_SIZE - 1,
        bos_token_id=None,
        **SHAPES[name],
    )
    torch.manual_seed(0)
    return Qwen3ForCausalLM(config).to(dtype).eval()


def save(name: str, folder: str | Path) -> None:
    """Write a model and its tokenizer as a hub would hold them."""
    if name == TINY:
        save_tiny(folder)
        return
    disable_progress_bar()
    build(name).save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def save_tiny(folder: str | Path) -> None:
    """Write the tiny model, of two layers and 400 tokens, and its tokenizer."""
    disable_progress_bar()
    config = Qwen3Config(
        vocab_size=_TINY_VOCABULARY_SIZE,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=end_of_text(TINY),
        bos_token_id=None,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).eval().save_pretrained(folder)
    tokenizer(_TINY_VOCABULARY_SIZE).save_pretrained(folder)


def end_of_text(name: str) -> int:
    """Return the id of the token that ends a model's texts."""
    return (_TINY_VOCABULARY_SIZE if name == TINY else VOCABULARY_SIZE) - 1


def tokenizer(size: int = VOCABULARY_SIZE) -> Any:
    """Return a byte-level tokenizer of `size` entries: bytes, pairs, triples, end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = list(product(alphabet, alphabet))
    triples = ((a + b, c) for (a, b), c in product(pairs, alphabet))
    merges = list(islice(chain(pairs, triples), size - len(alphabet) - 1))
    tokens = [*alphabet, *(a + b for a, b in merges), "<|endoftext|>"]
    backend = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def prompts(count: int, length: int, *, shared_prefix: int = 0, seed: int = 1) -> list[list[int]]:
    """Return random prompts of `length` tokens, the first `shared_prefix` of them equal."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> list[int]:
        ids: list[int] = torch.randint(
            0, VOCABULARY_SIZE - 1, (size,), generator=generator
        ).tolist()
        return ids

    head = draw(shared_prefix)
    return [head + draw(length - shared_prefix) for _ in range(count)]
