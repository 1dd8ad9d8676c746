"""The streams of a plan: on which model each runs, and what its prompt is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from bosal_decoding.errors import InvalidConversation
from bosal_decoding.scaffolds import Message, Rendered, Scaffold
from bosal_decoding.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamModel:
    """A served model as a recipe may name it."""

    name: str
    vocabulary: Vocabulary
    context_tokens: int


class PromptVariant(Protocol):
    """What a stream's prompt is, seen from the request's."""

    def scaffold_of(self, own: Scaffold) -> Scaffold | None:
        """The scaffold that frames it; None where the text stands for itself."""
        ...

    def render(self, own: Scaffold, messages: Sequence[Message]) -> Rendered | None:
        """Render a conversation; None is the last token of the base's prompt."""
        ...


@dataclass(frozen=True, slots=True)
class SamePrompt:
    """The request's own prompt, or its conversation in another scaffold."""

    scaffold: Scaffold | None = None

    def scaffold_of(self, own: Scaffold) -> Scaffold | None:
        return self.scaffold or own

    def render(self, own: Scaffold, messages: Sequence[Message]) -> Rendered | None:
        return (self.scaffold or own).render(messages)[0]


@dataclass(frozen=True, slots=True)
class WithoutInstruction:
    """The same scaffold with nothing where the last instruction stands."""

    def scaffold_of(self, own: Scaffold) -> Scaffold | None:
        return own

    def render(self, own: Scaffold, messages: Sequence[Message]) -> Rendered | None:
        return own.render_instead(messages, "")


@dataclass(frozen=True, slots=True)
class OtherInstruction:
    """The same scaffold with another text where the last instruction stands."""

    text: str

    def scaffold_of(self, own: Scaffold) -> Scaffold | None:
        return own

    def render(self, own: Scaffold, messages: Sequence[Message]) -> Rendered | None:
        return own.render_instead(messages, self.text)


@dataclass(frozen=True, slots=True)
class WithoutContext:
    """The same scaffold with only what the last message says behind its context."""

    separator: str

    def scaffold_of(self, own: Scaffold) -> Scaffold | None:
        return own

    def render(self, own: Scaffold, messages: Sequence[Message]) -> Rendered | None:
        context, _, question = messages[-1].text.rstrip().rpartition(self.separator)
        if not context.strip() or not question.strip():
            raise InvalidConversation(
                "'context_aware' finds no context: the last message must be a context, "
                f"{self.separator!r} and a question"
            )
        return own.render_instead(messages, question)


@dataclass(frozen=True, slots=True)
class WholePrompt:
    """A text that is the whole prompt, whatever was asked."""

    text: str

    def scaffold_of(self, own: Scaffold) -> Scaffold | None:
        return None

    def render(self, own: Scaffold, messages: Sequence[Message]) -> Rendered | None:
        return Rendered(text=self.text, spans=(), stable_chars=len(self.text))


@dataclass(frozen=True, slots=True)
class LastToken:
    """The last token of the base's prompt, and nothing else."""

    def scaffold_of(self, own: Scaffold) -> Scaffold | None:
        return None

    def render(self, own: Scaffold, messages: Sequence[Message]) -> Rendered | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """One stream as a rule asks for it."""

    # What it is to the rule: `unconditional`, `amateur`, `expert`, …
    role: str
    # "" is the request's model.
    model: str = ""
    prompt: PromptVariant = field(default_factory=SamePrompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """One stream of a plan, its model resolved."""

    role: str
    # "" is the request's model.
    model: str
    vocabulary: Vocabulary
    context_tokens: int
    prompt: PromptVariant
    # Leading tokens of every prompt of this stream.
    pinned_ids: tuple[int, ...]


BASE_ROLE: Final = "base"
