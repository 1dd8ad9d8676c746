"""The family's one tokenizer: byte-level BPE that adds nothing to a text by itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bosal_lab.errors import DamagedFileError, LabError

END = "<|endoftext|>"
VOCABULARY = 4096
CONTEXT = 1024
# Words and digits take one leading space, digits stand alone, and punctuation never swallows a
# line end: "\n", "\n\n", "Q", ":" and "-" are tokens that a rule can name.
SPLIT = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """Learn the merges from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer in Hugging Face format."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)


def end_of(tokenizer: Tokenizer) -> int:
    """Return the id of the end token."""
    end = tokenizer.token_to_id(END)
    if end is None:
        raise LabError(f"the tokenizer has no {END}")
    return end


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the bare tokenizer back."""
    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # It raises no other kind.
        raise DamagedFileError(path, str(error)) from error
