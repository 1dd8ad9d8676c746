"""What calls return: plain, immutable Python values that mirror the wire contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bosal_client.experiment_results import Assignment
from bosal_client.explanations import Explanation, ExplanationSummary

__all__ = [
    "Choice",
    "CompiledConstraint",
    "Ending",
    "Finished",
    "Generation",
    "Logprobs",
    "Score",
    "Started",
    "Timings",
    "TokenBatch",
    "TokenSequence",
    "TopLogprobs",
    "Usage",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledConstraint:
    """What became of a constraint."""

    backend: str
    # Schema keywords that were left out, because the request allows it.
    ignored_keywords: tuple[str, ...]
    # Tokens of a short complete text; None where none was found.
    shortest_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Everything needed to issue the same request again."""

    request_id: str
    model: str
    model_digest: str
    recipe_name: str
    recipe_version: str
    # The recipe document in force, overrides applied.
    recipe: Mapping[str, Any]
    seed: int
    max_tokens: int
    num_choices: int
    # One number per stream, the base stream first.
    prompt_tokens: tuple[int, ...]
    runner: str
    dtype: str
    device: str
    versions: Mapping[str, str]
    # What became of the constraint; None without one.
    constraint: CompiledConstraint | None = None
    # None: no experiment was named.
    assignment: Assignment | None = None
    # Rules the request overrode, as it gave them, and the version of the recipe before that.
    overrides: tuple[Mapping[str, Any], ...] = ()
    base_version: str = ""
    # What a scaffold with `drop_oldest` left out to make room for the answer.
    dropped_messages: int = 0
    dropped_examples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TopLogprobs:
    """The best tokens of one position, best first."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    token_bytes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Logprobs:
    """Log-probabilities before (`raw`) and after (`controlled`) the rules, one per token."""

    raw: tuple[float, ...]
    raw_rank: tuple[int, ...]
    controlled: tuple[float, ...]
    controlled_rank: tuple[int, ...]
    top_raw: tuple[TopLogprobs, ...]
    top_controlled: tuple[TopLogprobs, ...]
    token_bytes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """One or many tokens of one choice, and the text that became final with them."""

    choice: int
    first_position: int
    token_ids: tuple[int, ...]
    text: str
    logprobs: Logprobs | None
    # One per token, if they were asked for.
    explanations: tuple[Explanation, ...]
    # Output positions of tokens that a rule or the constraint dictated.
    forced_positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One whole answer and why it ended."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: Logprobs | None
    # One per token, if they were asked for.
    explanations: tuple[Explanation, ...]
    explanation: ExplanationSummary | None
    # The wire's name without its prefix: `stop_string`, `max_tokens`, …
    finish_reason: str
    matched_stop: str
    yielded_rules: tuple[str, ...]
    # Tokens at which the recipe's other streams had a say; None for a recipe of one stream.
    interventions: int | None = None
    # Output positions of tokens that a rule or the constraint dictated.
    forced_positions: tuple[int, ...] = ()
    # Whether the text is JSON that the constraint's schema accepts; None if nobody looked.
    schema_valid: bool | None = None
    # Of a `rule_conflict`, the rules that never yield and left no legal token together.
    conflicting_rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamUsage:
    """What one stream of a request took, all choices together."""

    # `base`, `unconditional`, `amateur`, …
    role: str
    model: str
    prompt_tokens: int
    # Tokens that went through the model.
    forwards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    streams: tuple[StreamUsage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """The server's clock, in seconds."""

    queue: float
    prefill: float
    time_to_first_token: float
    decode: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    choice: int
    finish_reason: str
    matched_stop: str
    output_tokens: int
    yielded_rules: tuple[str, ...]
    explanation: ExplanationSummary | None
    # Tokens at which the recipe's other streams had a say; None for a recipe of one stream.
    interventions: int | None = None
    schema_valid: bool | None = None
    # Of a `rule_conflict`, the rules that never yield and left no legal token together.
    conflicting_rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The last event of a stream."""

    endings: tuple[Ending, ...]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """Every choice of a request, finished."""

    started: Started
    choices: tuple[Choice, ...]
    usage: Usage
    timings: Timings

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.choices[0].text

    @property
    def request_id(self) -> str:
        return self.started.request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstraintScore:
    """How a given answer stands to a constraint."""

    # Of the first token that it forbids; behind that one the answer is scored without it.
    forbidden_position: int | None
    # The answer satisfies it as a whole.
    is_complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The log-probabilities of a given answer; the sums are over its tokens."""

    request_id: str
    model: str
    model_digest: str
    recipe_name: str
    recipe_version: str
    token_ids: tuple[int, ...]
    # Controlled is -inf where a rule forbids the token.
    logprobs: Logprobs
    raw_logprob: float
    controlled_logprob: float
    usage: Usage
    # None: it was held to none.
    constraint: ConstraintScore | None = None
    # What a rule dictates: its own token scores 0 there after control, any other -inf.
    forced_positions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSequence:
    """A text as one model reads it."""

    token_ids: tuple[int, ...]
    token_bytes: tuple[bytes, ...]
    text: str
