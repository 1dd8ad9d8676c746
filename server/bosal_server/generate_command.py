"""What a request asks for, free of any transport."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bosal_decoding.scaffolds import Message
from bosal_server.security.caller import ANYBODY, Caller, Priority


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptCommand:
    """Whose prompt to make: a recipe and what the user said."""

    # A name, `name@version`, a whole document, or "" for the default.
    recipe: str | Mapping[str, Any] = ""
    # One of the two.
    instruction: str | None = None
    conversation: Sequence[Message] | None = None

    @property
    def num_characters(self) -> int:
        """Of what the user said."""
        texts = [message.text for message in self.conversation or ()]
        return sum(map(len, (*texts, self.instruction or "")))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentCommand:
    """Whom a request is for, and the experiment that decides what they are served."""

    experiment: str
    unit: str
    # For debugging; "": none.
    force_variant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateCommand:
    """What to generate; None and "" leave it to the server."""

    prompt: PromptCommand
    model: str = ""
    overrides: Sequence[Mapping[str, Any]] = ()
    num_choices: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    # -1: none; 0: the chosen token; n: and the best n.
    logprobs: int = -1
    # A document that takes the place of the recipe's constraint.
    constraint: Mapping[str, Any] | None = None
    # Whether every token is to be explained.
    explain: bool = False
    # An answer to score, as text or tokens, instead of generating one.
    continuation: str | Sequence[int] | None = None
    request_id: str = ""
    # On the clock of time.monotonic.
    deadline: float | None = None
    caller: Caller = ANYBODY
    # Gives the recipe.
    experiment: ExperimentCommand | None = None
    # None: the usual.
    priority: Priority | None = None
