"""What a request must be before it may run: resolved, checked, compiled and tokenised."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, Final

from bosal_decoding.constraints.program import Program
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import DecodingError, RuleConflict
from bosal_decoding.limits import MAX_TOKENS
from bosal_decoding.opening import UNOPENED, Opening
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_decoding.schema import join_field
from bosal_server import call
from bosal_server.chosen_plan import ChosenPlan, PlanDesk, recipe_field
from bosal_server.constraint_desk import ConstraintDesk
from bosal_server.errors import check_shadows
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.held_draws import Held
from bosal_server.experiments.trial import instruction_text
from bosal_server.generate_command import GenerateCommand, PromptCommand
from bosal_server.limits import Limits
from bosal_server.opposition import oppose
from bosal_server.preparation import Preparation
from bosal_server.prompt_log import log_prompt
from bosal_server.recipe_store import RecipeStore
from bosal_server.request_errors import (
    InvalidRequestId,
    MissingField,
    OutOfRange,
    PromptTooLarge,
    ResponseTooLarge,
    located,
    named,
)
from bosal_server.scoring import given_tokens, num_given_tokens
from bosal_server.served_models import ServedModel, ServedModels
from bosal_server.started import Started

# Ids and values of log-probabilities that one request may make the server keep.
_MAX_REPORTED_NUMBERS: Final = 4_000_000


class Acceptance:
    """Turns commands into requests that can run; belongs to one event loop."""

    def __init__(
        self,
        *,
        models: ServedModels,
        recipes: RecipeStore,
        default_recipe: str,
        limits: Limits,
        constraints: ConstraintDesk,
        preparation: Preparation,
        log_prompts: bool = False,
    ) -> None:
        self._models = models
        self._plans = PlanDesk(models, recipes, default_recipe)
        self._limits = limits
        self._constraints = constraints
        self._preparation = preparation
        self._log_prompts = log_prompts

    async def accept(
        self, command: GenerateCommand, assignment: Assignment | None = None
    ) -> Started:
        """Resolve, check, compile and tokenise a request; nothing runs yet."""
        arrival = monotonic()
        self._check(command)
        command = replace(command, request_id=command.request_id or call.request_id())

        def begin() -> Started | ChosenPlan:
            chosen = self._choose(command, assignment)
            if chosen.is_held_early:
                return chosen
            return self._start(chosen, command, arrival, assignment)

        begun = await self._preparation.run(begin)
        if isinstance(begun, ChosenPlan):
            # Who is refused for a constraint costs no prompt, and who waits for one none yet.
            chosen = begun
            program = await self._program(chosen.plan, UNOPENED, command)
            if wanted := command.max_tokens or chosen.plan.max_tokens:
                self._check_budget(program, wanted, command)
            started = await self._preparation.run(
                lambda: self._start(chosen, command, arrival, assignment)
            )
        else:
            started = begun
            program = await self._program(started.plan, started.prompts[0].opening, command)
        self._check_budget(program, started.max_tokens, command)
        if self._log_prompts:
            log_prompt(started.request_id, self.messages(command.prompt)[0])
        return replace(started, program=program)

    async def tokenize_text(self, text: str, model: ServedModel) -> list[int]:
        """Tokenise a text as it stands."""
        self._check_size("text", len(text.encode()))

        def tokens() -> list[int]:
            with named("text"):
                return model.vocabulary.encode(text)

        return await self._preparation.run(tokens)

    async def tokenize_prompt(
        self, command: PromptCommand, model: ServedModel
    ) -> tuple[Prompt, ...]:
        """Render and tokenise the prompts a recipe makes."""
        messages, field = self.messages(command)

        def prompts() -> tuple[Prompt, ...]:
            recipe = self._plans.recipe(command.recipe)[1]
            plan = self._plans.plan(model, recipe, command.recipe)
            return _prompts(plan, messages, field, command.recipe)

        return await self._preparation.run(prompts)

    def messages(self, command: PromptCommand) -> tuple[Sequence[Message], str]:
        """Return what the user said, and the request field that holds it."""
        texts = [message.text for message in command.conversation or ()]
        num_bytes = sum(len(text.encode()) for text in (*texts, command.instruction or ""))
        self._check_size(
            "instruction" if command.conversation is None else "conversation", num_bytes
        )
        if command.conversation is not None:
            if len(command.conversation) > self._limits.max_messages:
                raise OutOfRange(
                    "conversation.messages",
                    len(command.conversation),
                    low=1,
                    high=self._limits.max_messages,
                )
            return command.conversation, "conversation"
        if command.instruction is None or not command.instruction.strip():
            raise MissingField("instruction", "there is nothing to answer")
        return [Message(role="user", text=command.instruction)], "instruction"

    def _check_size(self, field: str, num_bytes: int) -> None:
        if num_bytes > self._limits.max_prompt_bytes:
            raise PromptTooLarge(field, num_bytes, self._limits.max_prompt_bytes)

    def _check(self, command: GenerateCommand) -> None:
        """Refuse what needs no recipe to be wrong."""
        limits = self._limits
        is_printable = command.request_id.isprintable()
        if not is_printable or len(command.request_id) > limits.max_request_id_chars:
            raise InvalidRequestId(limits.max_request_id_chars)
        if command.max_tokens is not None:
            _within("max_tokens", command.max_tokens, 1, MAX_TOKENS)
        if command.num_choices is not None:
            _within("num_choices", command.num_choices, 1, limits.max_choices)
        if isinstance(command.continuation, str):
            self._check_size("text", len(command.continuation.encode()))
        if command.logprobs >= 0:
            _within("logprobs.top", command.logprobs, 0, limits.max_top_logprobs)

    async def _program(
        self, plan: Plan, opening: Opening, command: GenerateCommand
    ) -> Program | None:
        """Compile the constraint of a request."""
        where = "constraint"
        if command.constraint is None:
            where = join_field(recipe_field(command.prompt.recipe), where)
        return await self._constraints.program(plan, where, opening, owner=command.caller.key_id)

    def _check_budget(
        self, program: Program | None, max_tokens: int, command: GenerateCommand
    ) -> None:
        if command.continuation is None:
            self._constraints.check_budget(program, max_tokens)

    def _choose(self, command: GenerateCommand, assignment: Assignment | None) -> ChosenPlan:
        messages, field = self.messages(command.prompt)
        return self._plans.choose(command, messages, field, assignment)

    def _start(
        self,
        chosen: ChosenPlan,
        command: GenerateCommand,
        arrival: float,
        assignment: Assignment | None,
    ) -> Started:
        """Tokenise the prompts, and check what hangs on them."""
        served, plan = chosen.served, chosen.plan
        messages, field = chosen.messages, chosen.field
        explain = None
        if command.explain:
            with located("explain"):
                explain = Counterfactuals.of(plan, self._models.streams)
            check_shadows(explain.num_plans, served.max_shadows)
        wanted = command.max_tokens
        if command.continuation is not None:
            wanted = num_given_tokens(plan, command.continuation)
        prompts = _prompts(plan, messages, field, command.prompt.recipe, wanted)
        continuation: tuple[int, ...] = ()
        if command.continuation is None:
            with named("max_tokens"):
                max_tokens = plan.output_budget(prompts, command.max_tokens)
        else:
            limit = self._limits.max_scored_tokens
            continuation = given_tokens(plan, prompts, command.continuation, limit=limit)
            max_tokens = len(continuation)
        num_choices = command.num_choices or 1
        _check_response(command, num_choices * max_tokens, explain)
        held: tuple[Held, ...] = ()
        if assignment is not None and assignment.is_held:

            def compiled(other: Recipe) -> tuple[Plan, tuple[Prompt, ...]]:
                if chosen.constraint is not None:
                    other = other.with_constraint(chosen.constraint)
                their_plan = self._models.compile(served, other)
                return their_plan, their_plan.prompts(messages, command.max_tokens)

            with located("experiment"):
                opposition = oppose(
                    plan,
                    prompts,
                    assignment,
                    compiled,
                    self._models.streams,
                    has_effects=command.explain,
                )
            held = opposition.held
            if served.can_explain(opposition.counterfactuals):
                explain = opposition.counterfactuals
            else:
                # Nobody asked for it, so nobody is refused.
                held = tuple(replace(one, place=None, is_symmetric=False) for one in held)
        instruction_tokens = 0
        if assignment is not None and assignment.is_recorded:
            instruction_tokens = len(served.vocabulary.encode(instruction_text(messages)))
        return Started(
            request_id=command.request_id,
            model=served,
            recipe_name=chosen.name,
            base_version=chosen.base_version,
            overrides=command.overrides,
            plan=plan,
            prompts=prompts,
            seed=secrets.randbits(32) if command.seed is None else command.seed,
            max_tokens=max_tokens,
            num_choices=num_choices,
            continuation=continuation,
            arrival=arrival,
            explain=explain,
            assignment=assignment,
            instruction_tokens=instruction_tokens,
            held=held,
        )


def _prompts(
    plan: Plan,
    messages: Sequence[Message],
    field: str,
    reference: str | Mapping[str, Any],
    max_tokens: int | None = None,
) -> tuple[Prompt, ...]:
    """Render; what the recipe's rules make of a prompt is said of the recipe."""
    try:
        with named(field):
            return plan.prompts(messages, max_tokens)
    except RuleConflict as error:
        with located(recipe_field(reference)):
            raise error from None
    except DecodingError as error:
        if field != "conversation" or error.field == field:
            raise
        with located(field):
            raise error from None


def _check_response(
    command: GenerateCommand, num_tokens: int, explain: Counterfactuals | None
) -> None:
    """Refuse what would make the server keep too many numbers about its tokens."""
    # An id and a value, before and after control, of the chosen token and of each other.
    per_token = 4 * (1 + command.logprobs)
    if explain is not None:
        per_token += 9 + 5 * len(explain.without)
    numbers = num_tokens * per_token
    if numbers > _MAX_REPORTED_NUMBERS:
        raise ResponseTooLarge(
            numbers,
            _MAX_REPORTED_NUMBERS,
            field="explain" if command.logprobs < 0 else "logprobs.top",
        )


def _within(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise OutOfRange(field, value, low=low, high=high)
