"""Constraints beside an event loop: compiled before a request is queued, checked at its end."""

import asyncio
import copy
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from time import monotonic
from typing import Final, TypeVar

from bosal_decoding.constraint_conflicts import check_program
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.errors import (
    CompileQueueFull,
    ConstraintNeedsTokens,
    InvalidConstraint,
)
from bosal_decoding.constraints.program import Program
from bosal_decoding.opening import UNOPENED, Opening
from bosal_decoding.plan import Plan
from bosal_decoding.vocabulary import Vocabulary
from bosal_server.engine.request import ChoiceEnding, FinishedEvent, FinishReason, TokensEvent
from bosal_server.request_errors import located

Result = TypeVar("Result")

# The text was not cut off.
_WHOLE: Final = frozenset(
    {FinishReason.CONSTRAINT_COMPLETE, FinishReason.CONSTRAINT_CLOSED, FinishReason.STOP_TOKEN}
)

# How long a request waits for a place in the queue, and how often it looks. Who is refused at
# once comes back at once.
_PLACE_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.1
# How long an answer that is whole waits to be validated.
_JUDGE_SECONDS: Final = 10.0


class ConstraintDesk:
    """Where a request gets its program; belongs to one event loop, which it never holds up."""

    def __init__(
        self, compiler: ConstraintCompiler, observe: Callable[[float], None] | None = None
    ) -> None:
        """`observe` is told the seconds each request waited for its program."""
        self.compiler = compiler
        self._observe = observe

    def close(self) -> None:
        self.compiler.close()

    async def program(
        self, plan: Plan, where: str, opening: Opening = UNOPENED, *, owner: str = ""
    ) -> Program | None:
        """Compile a plan's constraint, found at `where` in the request; None if it has none.

        Owners take turns.

        Raises:
            RuleConflict: it leaves one of the plan's rules no place.
            InvalidConstraint: it cannot be honoured.
            UnknownName: its Python type is not registered.
        """
        constraint = plan.recipe.constraint
        if constraint is None:
            return None
        begin = monotonic()
        with located(where):
            try:
                # It holds for the answer's text, which stands behind what was taken back.
                lead = opening.hidden + plan.recipe.scaffold.lead
                future = await self._queued(constraint, plan.vocabulary, lead, owner)
                try:
                    program = await _result(future)
                except asyncio.CancelledError:
                    self.compiler.abandon(future)
                    raise
                check_program(plan, program, opening)
                return program
            except InvalidConstraint as refusal:
                # The same refusal may answer others, whose requests name other fields.
                raise copy.copy(refusal) from None
            finally:
                if self._observe is not None:
                    self._observe(monotonic() - begin)

    async def _queued(
        self, constraint: Constraint, vocabulary: Vocabulary, lead: str, owner: str
    ) -> Future[Program]:
        """Queue a constraint, once there is a place for it.

        Raises:
            CompileQueueFull: there was none for too long.
        """
        until = monotonic() + _PLACE_SECONDS
        while True:
            try:
                return self.compiler.submit(constraint, vocabulary, lead, owner=owner)
            except CompileQueueFull:
                if monotonic() >= until:
                    raise
            await asyncio.sleep(_LOOK_SECONDS)

    def check_budget(self, program: Program | None, max_tokens: int) -> None:
        """Refuse a constraint that is known not to fit the output.

        Raises:
            ConstraintNeedsTokens: with both numbers.
        """
        if program is not None and program.close is not None and len(program.close) > max_tokens:
            raise ConstraintNeedsTokens(len(program.close), max_tokens)

    def judge(self, program: Program | None, *, owner: str = "") -> "SchemaJudge | None":
        """Return who validates the texts of a request, if its constraint is a schema."""
        if program is None or program.json_schema is None:
            return None
        return SchemaJudge(self.compiler, program.json_schema, owner)


class SchemaJudge:
    """Collects the texts of one request and validates them once they are whole."""

    def __init__(self, compiler: ConstraintCompiler, schema: str, owner: str) -> None:
        self._compiler = compiler
        self._schema = schema
        self._owner = owner
        self._texts: dict[int, list[str]] = {}

    def note(self, event: TokensEvent) -> None:
        self._texts.setdefault(event.choice, []).append(event.text)

    async def judged(self, event: FinishedEvent) -> FinishedEvent:
        """Return the endings with what was found; unset where a text is not whole."""
        return replace(event, endings=tuple([await self._judged(one) for one in event.endings]))

    async def _judged(self, ending: ChoiceEnding) -> ChoiceEnding:
        if ending.reason not in _WHOLE:
            return ending
        text = "".join(self._texts.get(ending.choice, ()))
        future = self._compiler.validate(self._schema, text, owner=self._owner)
        try:
            is_valid = await asyncio.wait_for(_result(future), _JUDGE_SECONDS)
        except (TimeoutError, asyncio.CancelledError) as error:
            future.cancel()  # unless its turn has come
            if isinstance(error, asyncio.CancelledError):
                raise
            is_valid = None
        return replace(ending, schema_valid=is_valid)


async def _result(future: Future[Result]) -> Result:
    """Await a future that others may await too: being cancelled here does not cancel it."""
    inner = asyncio.wrap_future(future)
    inner.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(inner)
