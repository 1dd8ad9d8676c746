"""What the engine is asked and what it answers."""

from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic
from typing import NamedTuple

from bosal_decoding.constraints.program import Program
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import PluginFault
from bosal_decoding.explanation import Explanation, ExplanationSummary
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_server.errors import ServerError


class FinishReason(StrEnum):
    """Why a choice ended; the wire's names of what is not deprecated there."""

    STOP_TOKEN = "STOP_TOKEN"
    STOP_STRING = "STOP_STRING"
    STOP_RULE = "STOP_RULE"
    MAX_TOKENS = "MAX_TOKENS"
    CONSTRAINT_COMPLETE = "CONSTRAINT_COMPLETE"
    CONSTRAINT_CLOSED = "CONSTRAINT_CLOSED"
    CONSTRAINT_DEAD_END = "CONSTRAINT_DEAD_END"
    CONSTRAINT_TOO_SLOW = "CONSTRAINT_TOO_SLOW"
    RULE_CONFLICT = "RULE_CONFLICT"
    LOOP = "LOOP"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One request, already parsed, compiled and tokenised."""

    request_id: str
    model: str
    plan: Plan
    prompts: tuple[Prompt, ...]  # one per stream
    seed: int
    max_tokens: int
    num_choices: int = 1
    logprobs: int = -1  # -1 off, 0 the chosen token alone, n with the best n
    continuation: tuple[int, ...] = ()  # tokens to score instead of drawing any
    program: Program | None = None  # the plan's constraint, compiled
    explain: Counterfactuals | None = None  # what draws are held against, if they are explained
    deadline: float | None = None  # on the clock of time.monotonic
    arrival: float = field(default_factory=monotonic)
    # Whose turn it is when requests wait: a higher number's first, then each key its fair part.
    priority: int = 1
    key_id: str = ""
    label: str = ""  # what the time of its rules is counted under
    # Keeps the prefix cache of different callers apart; empty: shared by all who have none.
    cache_salt: bytes = b""
    # The scaffold's part of the prompts is no secret: whatever the salt, it is shared.
    shares_scaffold: bool = False

    @property
    def stream_rooms(self) -> tuple[int, ...]:
        """How many tokens each stream may have behind its prompt."""
        rooms = [self.max_tokens] * self.plan.num_streams
        if self.plan.guide is not None:
            rooms.append(self.plan.guide.num_reserved(len(self.prompts[-1].token_ids)))
        return tuple(rooms)

    @property
    def stream_models(self) -> tuple[str, ...]:
        """The model of every stream, the base's first."""
        return tuple(stream.model or self.model for stream in self.plan.all_streams)


@dataclass(frozen=True, slots=True)
class TopTokens:
    """One position's best tokens, best first."""

    token_ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """What one position's draw reports."""

    raw: float
    raw_rank: int
    controlled: float
    controlled_rank: int
    top_raw: TopTokens
    top_controlled: TopTokens


@dataclass(slots=True)
class TokenLogprobs:
    """Log-probabilities parallel to the tokens they come with."""

    raw: list[float] = field(default_factory=list)
    raw_rank: list[int] = field(default_factory=list)
    controlled: list[float] = field(default_factory=list)
    controlled_rank: list[int] = field(default_factory=list)
    top_raw: list[TopTokens] = field(default_factory=list)
    top_controlled: list[TopTokens] = field(default_factory=list)

    def append(self, one: PositionLogprobs) -> None:
        self.raw.append(one.raw)
        self.raw_rank.append(one.raw_rank)
        self.controlled.append(one.controlled)
        self.controlled_rank.append(one.controlled_rank)
        self.top_raw.append(one.top_raw)
        self.top_controlled.append(one.top_controlled)

    def take(self, count: int) -> "TokenLogprobs":
        """Remove and return the first positions."""
        taken = TokenLogprobs(
            self.raw[:count],
            self.raw_rank[:count],
            self.controlled[:count],
            self.controlled_rank[:count],
            self.top_raw[:count],
            self.top_controlled[:count],
        )
        self._delete(slice(None, count))
        return taken

    def drop_last(self, count: int) -> None:
        """Forget the last positions."""
        self._delete(slice(len(self.raw) - count, None))

    def _delete(self, positions: slice) -> None:
        del self.raw[positions], self.raw_rank[positions]
        del self.controlled[positions], self.controlled_rank[positions]
        del self.top_raw[positions], self.top_controlled[positions]


class TokensEvent(NamedTuple):
    """Tokens of one choice that became final, and the text that became final with them."""

    choice: int
    first_position: int
    token_ids: list[int]
    text: str
    logprobs: TokenLogprobs | None = None
    # Parallel to the tokens if the request is explained; None for a token that was not drawn.
    explanations: list[Explanation | None] | None = None
    # Output positions of tokens that the constraint or a rule dictated.
    forced_positions: tuple[int, ...] = ()
    # What the tokens spell behind the end of the text: what it was stopped by, and all that came
    # with that in its last token.
    behind: str = ""


@dataclass(frozen=True, slots=True)
class Adherence:
    """How a given text stands to its constraint."""

    # Of the first token that the constraint forbids.
    forbidden_position: int | None
    is_complete: bool


@dataclass(frozen=True, slots=True)
class ChoiceEnding:
    """Why and how one choice ended."""

    choice: int
    reason: FinishReason
    matched_stop: str
    output_tokens: int
    yielded_rules: tuple[str, ...]
    explanation: ExplanationSummary | None = None
    # Tokens at which the other streams had a say; None for a choice of one stream.
    interventions: int | None = None
    # Whether the text is what the constraint's schema accepts; None if nobody looked.
    schema_valid: bool | None = None
    # Rules that never yield, and left no legal token together.
    conflicting_rules: tuple[str, ...] = ()
    # Of a given text that was scored under a constraint.
    adherence: Adherence | None = None


@dataclass(frozen=True, slots=True)
class StreamUsage:
    """What one stream of a request took, all choices together."""

    role: str
    model: str
    prompt_tokens: int  # counted once
    forwards: int  # tokens computed, those of the prompt that were not cached included


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; prompts count once, whatever the number of choices."""

    prompt_tokens: int
    cached_prompt_tokens: int
    output_tokens: int
    streams: tuple[StreamUsage, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent in each phase of a request."""

    queue: float
    prefill: float
    time_to_first_token: float
    decode: float
    total: float


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    """The end of every choice; the last event of a request that succeeded."""

    endings: tuple[ChoiceEnding, ...]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class FailedEvent:
    """The last event of a request that failed, whatever came before."""

    error: ServerError | PluginFault


EngineEvent = TokensEvent | FinishedEvent | FailedEvent
