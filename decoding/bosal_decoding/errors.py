"""What can be wrong with a recipe, a prompt or a tokenizer.

DecodingError
├── InvalidRecipe          a document breaks the schema
├── UnknownName            a rule or scaffold of that name does not exist
├── RuleConflict           two rules contradict each other
├── RuleUnsupported        a rule cannot be honoured for this model
├── UnknownTokenString     no single token spells a string
├── UnknownTokenId         a token id lies outside the vocabulary
├── InvalidConversation    the messages cannot be rendered
├── InvalidText            a text is not Unicode
├── UnfitContinuation      a text cannot be spelled behind a prompt
├── SpecialTokenInText     a text can only be encoded as a control token
├── PromptTooLong          a prompt leaves no room in the context
├── InvalidMaxTokens       a number of output tokens is out of range
├── VocabulariesDiffer     two models' tokens differ where their logits are to be combined
├── PluginUnusable         an installed package's rule cannot be loaded
├── PluginFault            an installed package's rule failed at its work
├── ProcessorMisused       `generate` calls a recipe's processor in a way it cannot serve
├── UnsupportedTokenizer   a tokenizer's tokens cannot be read as bytes
└── VocabularyMismatch     a plan's tokens do not fit a model's head
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ClassVar, Final

# Names that a message lists; a server may know thousands.
_MAX_NAMES: Final = 64


def suggestion(name: str, known: Iterable[str]) -> str:
    """Say which known name was probably meant, or which ones there are."""
    names = sorted(known)
    # Likeness takes time, and nobody means a short name by a long text.
    close = get_close_matches(name, names, n=1, cutoff=0.5) if len(name) <= 200 else []
    if close:
        return f"did you mean '{close[0]}'?"
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"known: {', '.join(names[:_MAX_NAMES])}{more}" if names else "none is known here"


def shorten(text: str, limit: int = 60) -> str:
    """Quote a text for a message, cut to a readable length."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


class DecodingError(Exception):
    """Raised when a recipe, a prompt or a tokenizer cannot be used; the root of this part."""

    reason: ClassVar[str] = "DECODING_ERROR"
    code: ClassVar[str] = "INVALID_ARGUMENT"

    def __init__(
        self, message: str, *, field: str | None = None, metadata: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.metadata = metadata or {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing wrong with a document: where, and what."""

    field: str
    message: str


class InvalidRecipe(DecodingError):
    """Raised when a document breaks the schema of recipes, rules or scaffolds."""

    reason = "INVALID_RECIPE"

    def __init__(self, violations: Sequence[Violation]) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.message}{more}", field=first.field or None)
        self.violations = tuple(violations)

    @classmethod
    def at(cls, field: str, message: str) -> "InvalidRecipe":
        return cls([Violation(field=field, message=message)])


class UnknownName(DecodingError):
    """Raised when a recipe names a rule or a scaffold that does not exist."""

    reason = "UNKNOWN_NAME"

    def __init__(self, kind: str, name: str, known: Iterable[str], *, field: str) -> None:
        super().__init__(
            f"no {kind} is called {shorten(name)}, {suggestion(name, known)}",
            field=field,
            metadata={"kind": kind, "name": name[:200]},
        )


class RuleConflict(DecodingError):
    """Raised when two rules of one recipe contradict each other."""

    reason = "RULE_CONFLICT"

    def __init__(self, first: str, second: str, why: str, *, field: str | None = None) -> None:
        super().__init__(
            f"'{first}' contradicts '{second}': {why}",
            field=field,
            metadata={"first": first, "second": second},
        )


class RuleUnsupported(DecodingError):
    """Raised when a rule cannot be honoured for this model."""

    reason = "RULE_UNSUPPORTED"

    def __init__(self, rule: str, why: str, *, field: str) -> None:
        super().__init__(
            f"'{rule}' cannot be honoured: {why}", field=field, metadata={"rule": rule}
        )


class UnknownTokenString(DecodingError):
    """Raised when no single token of the vocabulary spells a string."""

    reason = "UNKNOWN_TOKEN_STRING"

    def __init__(self, text: str, *, field: str) -> None:
        super().__init__(
            f"no single token of this vocabulary spells {shorten(text)}; "
            "with and without a leading space are two strings",
            field=field,
            metadata={"string": text[:200]},
        )


class UnknownTokenId(DecodingError):
    """Raised when a token id lies outside the vocabulary."""

    reason = "UNKNOWN_TOKEN_ID"

    def __init__(self, token: int, size: int, *, field: str) -> None:
        super().__init__(
            f"token id {token} is outside the vocabulary of {size} tokens",
            field=field,
            metadata={"token": str(token), "size": str(size)},
        )


class InvalidConversation(DecodingError):
    """Raised when messages cannot be rendered: none, an empty one, or no question at the end."""

    reason = "INVALID_CONVERSATION"


class InvalidText(DecodingError):
    """Raised when a text is not Unicode (a lone surrogate)."""

    reason = "INVALID_TEXT"

    def __init__(self, *, field: str | None = None) -> None:
        super().__init__("the text holds a lone surrogate, which is not Unicode", field=field)


class UnfitContinuation(DecodingError):
    """Raised when no tokens spell just a given text behind a prompt's own."""

    reason = "UNFIT_CONTINUATION"

    def __init__(self, *, field: str | None = None) -> None:
        super().__init__(
            "no tokens spell just this text behind the prompt; give token ids", field=field
        )


class SpecialTokenInText(DecodingError):
    """Raised when a tokenizer can encode a text only as one of its control tokens."""

    reason = "SPECIAL_TOKEN_IN_TEXT"

    def __init__(self, token: str) -> None:
        super().__init__(
            f"the text spells the control token {shorten(token)}, "
            "which this tokenizer cannot encode as plain text",
            metadata={"token": token},
        )


class PromptTooLong(DecodingError):
    """Raised when a prompt and its output do not fit the model's context."""

    reason = "CONTEXT_OVERFLOW"

    def __init__(
        self, prompt_tokens: int, max_tokens: int, context_tokens: int, *, stream: int = 0
    ) -> None:
        super().__init__(
            f"stream {stream}: {prompt_tokens} prompt tokens and {max_tokens} output tokens "
            f"exceed the context of {context_tokens} tokens",
            metadata={
                "stream": str(stream),
                "prompt_tokens": str(prompt_tokens),
                "max_tokens": str(max_tokens),
                "context_tokens": str(context_tokens),
            },
        )


class InvalidMaxTokens(DecodingError):
    """Raised when a request asks for a number of output tokens that is out of range."""

    reason = "INVALID_MAX_TOKENS"

    def __init__(self, value: int, limit: int) -> None:
        super().__init__(f"must lie in 1 to {limit}, not {value}", field="max_tokens")


class VocabulariesDiffer(DecodingError):
    """Raised when the logits of two models are to be combined, but their tokens differ."""

    reason = "VOCABULARIES_DIFFER"

    def __init__(self, model: str, token: int, pieces: tuple[str, str], *, field: str) -> None:
        own, its = (shorten(piece) if piece else "no token" for piece in pieces)
        super().__init__(
            f"the tokens of {shorten(model)} are not the request's model's: id {token} is {its} "
            f"there and {own} here",
            field=field,
            metadata={"model": model[:200], "token": str(token)},
        )


class PluginUnusable(DecodingError):
    """Raised when a rule that an installed package brings cannot be loaded."""

    reason = "PLUGIN_UNUSABLE"
    code = "FAILED_PRECONDITION"

    def __init__(self, rule: str, package: str, where: str, why: str) -> None:
        super().__init__(
            f"rule {shorten(rule)} of {package or 'an unknown package'} ({where}) cannot be used: "
            f"{why}; repair the package or uninstall it",
            metadata={"rule": rule, "package": package},
        )


class PluginFault(DecodingError):
    """Raised when a rule of an installed package fails, returns nonsense or takes too long."""

    reason = "PLUGIN_FAULT"
    code = "INTERNAL"

    def __init__(
        self, rule: str, package: str, cause: Exception | str, *, field: str | None = None
    ) -> None:
        is_own = isinstance(cause, str) or not str(cause)
        why = str(cause) if is_own else f"{type(cause).__name__}: {cause}"
        source = f" of {package}" if package else ""
        super().__init__(
            f"rule '{rule}'{source} failed: {shorten(why or type(cause).__name__, 300)}",
            field=field,
            metadata={"rule": rule, "package": package},
        )


class ProcessorMisused(DecodingError):
    """Raised when transformers' `generate` calls a recipe's processor with rows it did not make."""

    reason = "PROCESSOR_MISUSED"
    code = "FAILED_PRECONDITION"


class UnsupportedTokenizer(DecodingError):
    """Raised when a tokenizer's tokens cannot be read as bytes."""

    reason = "UNSUPPORTED_TOKENIZER"
    code = "FAILED_PRECONDITION"

    def __init__(self, tokenizer: str, why: str) -> None:
        super().__init__(f"tokenizer {tokenizer}: {why}", metadata={"tokenizer": tokenizer})


class VocabularyMismatch(DecodingError):
    """Raised when a plan names more tokens than a model's head has rows."""

    reason = "VOCABULARY_MISMATCH"
    code = "FAILED_PRECONDITION"

    def __init__(self, tokens: int, rows: int) -> None:
        super().__init__(
            f"the tokenizer has {tokens} tokens, the model's head only {rows}",
            metadata={"tokens": str(tokens), "rows": str(rows)},
        )
