"""Who is calling: what of a key the rest of the server needs to know."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class Scope(StrEnum):
    """What a key is for; every method needs one of them."""

    GENERATE = "generate"
    RECIPES = "recipes"
    EXPERIMENTS = "experiments"


class Priority(IntEnum):
    """Whose turn it is when requests wait: all of a higher one before any of a lower one."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One key, or everybody where no key is asked for."""

    # Requests of one id share their fair part of the engine; never shown to other callers.
    key_id: str = ""
    name: str = ""
    scopes: frozenset[Scope] = frozenset(Scope)
    # Keeps the prefix cache of different keys apart; empty: shared.
    cache_salt: bytes = b""
    # Choices waiting and running at once. None: no limit.
    max_choices: int | None = None
    # Prompt and output tokens together. None: no limit.
    tokens_per_minute: int | None = None
    max_priority: Priority = Priority.HIGH


ANYBODY: Final = Caller()

# Set for the task of a call, before its handler runs.
current_caller: ContextVar[Caller] = ContextVar("current_caller", default=ANYBODY)


def acting_as(claimed: str) -> str:
    """Return who does something, for the record: the key's name, then what its holder says."""
    name = current_caller.get().name
    if not name or name == claimed:
        return claimed
    return f"{name} ({claimed})" if claimed else name
