"""Python clients of a Bosal server: `Client` blocks, `AsyncClient` awaits."""

from bosal_client.aio import AsyncClient, AsyncComparisonStream, AsyncStream
from bosal_client.client import Client
from bosal_client.comparisons import ComparedRecipe, Comparison, Divergence, RecipeTokens
from bosal_client.descriptions import Model, Recipe, Rule, ServerInfo, Validation
from bosal_client.errors import (
    BosalError,
    Cancelled,
    DeadlineExceeded,
    IncompleteAnswer,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from bosal_client.explanations import Explanation, ExplanationSummary, RuleEffect
from bosal_client.requests import GenerationOptions, Message, assistant, user
from bosal_client.results import (
    Choice,
    Generation,
    Logprobs,
    Score,
    Started,
    Timings,
    TokenBatch,
    TokenSequence,
    TopLogprobs,
    Usage,
)
from bosal_client.streams import ComparisonStream, Stream

__all__ = [
    "AsyncClient",
    "AsyncComparisonStream",
    "AsyncStream",
    "BosalError",
    "Cancelled",
    "Choice",
    "Client",
    "ComparedRecipe",
    "Comparison",
    "ComparisonStream",
    "DeadlineExceeded",
    "Divergence",
    "Explanation",
    "ExplanationSummary",
    "Generation",
    "GenerationOptions",
    "IncompleteAnswer",
    "InternalError",
    "InvalidRequest",
    "Logprobs",
    "Message",
    "Model",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Recipe",
    "RecipeTokens",
    "Rule",
    "RuleEffect",
    "Score",
    "ServerInfo",
    "Started",
    "Stream",
    "Timings",
    "TokenBatch",
    "TokenSequence",
    "TopLogprobs",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Usage",
    "Validation",
    "assistant",
    "user",
]
