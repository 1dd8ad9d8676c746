"""A model as the engine sees it."""

from dataclasses import dataclass

from bosal_decoding.vocabulary import Vocabulary
from bosal_server.engine.runner import ModelRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineModel:
    """A runner and what the engine must know about the model behind it."""

    runner: ModelRunner
    vocabulary: Vocabulary
    context_tokens: int
    # Shadows that all explained choices may have together; None is without end.
    max_shadows: int | None = None
    digest: str = ""  # of weights and tokenizer; keeps prefixes of different models apart
