"""The bytes of tokens on the wire."""

from collections.abc import Sequence

from bosal_decoding.vocabulary import Vocabulary


def token_bytes(token_ids: Sequence[int], vocabulary: Vocabulary) -> list[bytes]:
    """Spell tokens; a model's head may have rows its tokenizer does not know."""
    spellings = vocabulary.token_bytes
    return [spellings[token] if token < len(spellings) else b"" for token in token_ids]
