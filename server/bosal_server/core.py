"""What the server does with a request, free of any transport."""

import asyncio
import random
import secrets
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from time import monotonic
from typing import Any, TypeVar
from uuid import uuid4

from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints import read_constraint
from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.constraints.errors import ConstraintUnsupported
from bosal_decoding.constraints.program import Program
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import DecodingError
from bosal_decoding.limits import MAX_TOKENS
from bosal_decoding.plan import Plan, Prompt
from bosal_decoding.recipe import Recipe
from bosal_decoding.scaffolds import Message
from bosal_decoding.schema import join_field
from bosal_decoding.streams import StreamModel
from bosal_decoding.vocabulary import Vocabulary
from bosal_server.config import InvalidConfig, Limits
from bosal_server.constraint_desk import ConstraintDesk
from bosal_server.engine.loop import EngineLoop
from bosal_server.engine.request import (
    FailedEvent,
    FinishedEvent,
    TokensEvent,
)
from bosal_server.errors import QueueFull, ServerError, UnknownModel
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.experiments.trial import NO_TRIAL, ExposedTrial, Trial, instruction_text
from bosal_server.generate_command import GenerateCommand, PromptCommand
from bosal_server.mailbox import Mailbox
from bosal_server.metrics import MeteredRequest, Metrics
from bosal_server.recipe_store import RecipeEntry, RecipeStore
from bosal_server.request_errors import (
    InvalidRequest,
    InvalidRequestId,
    MissingField,
    OutOfRange,
    PromptTooLarge,
    ResponseTooLarge,
    located,
)
from bosal_server.rule_cost import control_seconds
from bosal_server.scoring import given_tokens
from bosal_server.security.caller import Priority
from bosal_server.security.errors import PriorityTooHigh
from bosal_server.security.quota import QuotaLedger

# Ids and values of log-probabilities that one request may make the server keep.
_MAX_REPORTED_NUMBERS = 4_000_000

# The label and name of a recipe that came with its request.
INLINE = "inline"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as requests see it."""

    name: str
    digest: str
    architecture: str
    num_parameters: int
    vocabulary: Vocabulary
    context_tokens: int
    runner: str
    runner_reason: str
    dtype: str
    device: str
    cache_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A request that was accepted, with everything that makes it repeatable."""

    request_id: str
    model: ServedModel
    # `inline` for a recipe that came with the request.
    recipe_name: str
    # Of the recipe before the request's overrides, and these as they came.
    base_version: str
    overrides: Sequence[Mapping[str, Any]]
    plan: Plan
    seed: int
    max_tokens: int
    num_choices: int
    prompts: tuple[Prompt, ...]
    # Tokens to score instead of generating any.
    continuation: tuple[int, ...]
    # On the clock of time.monotonic.
    arrival: float
    # What draws are held against; None: they are not explained, or for the metrics alone.
    explain: Counterfactuals | None
    # The plan's constraint, compiled.
    program: Program | None = None
    # None: no experiment was named.
    assignment: Assignment | None = None

    @property
    def variant_label(self) -> str:
        """What metrics call the variant; "": the request is no exposure."""
        assignment = self.assignment
        return assignment.label if assignment is not None and assignment.is_recorded else ""


@dataclass(frozen=True, slots=True)
class Validation:
    """What a recipe became for a model."""

    plan: Plan
    # What its rules take per token of one choice; None where it cannot be measured.
    control_seconds: float | None


CoreEvent = Started | TokensEvent | FinishedEvent

Result = TypeVar("Result")


class GenerationCore:
    """Resolves, checks, compiles and tokenises requests, and runs them on the engine.

    Methods belong to one event loop. Whatever takes time runs in a thread beside it.
    """

    def __init__(
        self,
        *,
        models: Mapping[str, ServedModel],
        recipes: RecipeStore,
        default_recipe: str,
        limits: Limits,
        engine: EngineLoop,
        metrics: Metrics,
        versions: Mapping[str, str],
        experiments: ExperimentManager,
        explain_share: float = 0.0,
        shared_scaffolds: Collection[str] = (),
        constraints: ConstraintCompiler | None = None,
    ) -> None:
        """Serve; a share of requests that do not ask for it is explained for the metrics."""
        self.models = dict(models)
        # What the rules of a recipe may name.
        self._stream_models = tuple(
            StreamModel(
                name=model.name,
                vocabulary=model.vocabulary,
                context_tokens=model.context_tokens,
            )
            for model in models.values()
        )
        self.recipes = recipes
        self.default_model = next(iter(self.models))
        self.default_recipe = default_recipe
        self.limits = limits
        self.versions = dict(versions)
        self.experiments = experiments
        # Recipes whose scaffold's cache different callers share.
        self._shared_scaffolds = frozenset(shared_scaffolds)
        self._engine = engine
        self._metrics = metrics
        self._explain_share = explain_share
        self._quotas = QuotaLedger()
        self.constraints = ConstraintDesk(constraints or ConstraintCompiler())
        self._numbers = count()
        self._num_preparing = 0
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="bosal-prepare")

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self.constraints.close()

    async def generate(self, command: GenerateCommand) -> AsyncGenerator[CoreEvent, None]:
        """Yield Started, then tokens as they come, then the end; an error is raised.

        Tokens that became ready together come as one event per choice. Closing the iterator
        early cancels the request.
        """
        started, trial = await self._begin(command)
        with trial.watching():
            async with aclosing(self.run(started, command)) as events:
                async for event in events:
                    trial.observe(event)
                    yield event if command.explain else unexplained(event)

    async def accept(
        self, command: GenerateCommand, assignment: Assignment | None = None
    ) -> Started:
        """Resolve, check, compile and tokenise a request; nothing runs yet."""
        arrival = monotonic()
        self._check(command)
        started = await self.beside(lambda: self._accept(command, arrival, assignment))
        return await self._with_program(started, command)

    async def _begin(self, command: GenerateCommand) -> tuple[Started, Trial]:
        """Accept a request; under an experiment with its exposure queued, or as the control."""
        if command.experiment is None:
            return await self.accept(command), NO_TRIAL
        _refuse_other_recipes(command)
        asked = command.experiment
        with located("experiment"):
            assignment = self.experiments.assign(asked.experiment, asked.unit, asked.force_variant)
        started = await self.accept(command, assignment)
        if assignment.is_recorded:
            text = instruction_text(self._messages(command.prompt)[0])
            tokens = await self.beside(lambda: len(started.model.vocabulary.encode(text)))
            exposed = self.experiments.expose(
                assignment,
                request_id=started.request_id,
                model_digest=started.model.digest,
                seed=started.seed,
                instruction=text,
                instruction_tokens=tokens,
            )
            if exposed is not None:
                trial = ExposedTrial(
                    self.experiments,
                    exposed,
                    text,
                    is_constrained=started.program is not None,
                )
                return replace(started, assignment=exposed), trial
            started = await self.accept(command, assignment.unavailable())
        return started, NO_TRIAL

    async def run(
        self, started: Started, command: GenerateCommand
    ) -> AsyncGenerator[CoreEvent, None]:
        """Yield an accepted request itself, then what the engine makes of it."""
        judge = self.constraints.judge(started.program)
        # The client's id may repeat while a call it retries is still being cancelled.
        engine_id = f"{started.request_id}#{next(self._numbers)}"
        mailbox = Mailbox()
        request = MeteredRequest(
            request_id=engine_id,
            model=started.model.name,
            plan=started.plan,
            prompts=started.prompts,
            seed=started.seed,
            max_tokens=started.max_tokens,
            num_choices=started.num_choices,
            logprobs=command.logprobs,
            continuation=started.continuation,
            program=started.program,
            explain=started.explain or self._sampled(started),
            deadline=command.deadline,
            priority=_priority(command),
            key_id=command.caller.key_id,
            cache_salt=command.caller.cache_salt,
            shares_scaffold=started.recipe_name in self._shared_scaffolds,
            arrival=started.arrival,
            metrics=self._metrics.bind(
                started.model.name, started.recipe_name, started.variant_label
            ),
        )
        is_over = False
        num_tokens = sum(len(prompt.token_ids) for prompt in started.prompts)
        lease = self._quotas.lease(
            command.caller,
            choices=started.num_choices,
            tokens=num_tokens + started.num_choices * started.max_tokens,
        )
        try:
            self._engine.submit(request, mailbox)
        except BaseException:
            lease.end(0)
            raise
        try:
            yield started
            while not is_over:
                for event in await mailbox.take():
                    if isinstance(event, FailedEvent):
                        is_over = True
                        raise event.error
                    if isinstance(event, TokensEvent):
                        num_tokens += len(event.token_ids)
                    is_over = isinstance(event, FinishedEvent)
                    if judge is not None and isinstance(event, TokensEvent):
                        judge.note(event)
                    elif judge is not None and isinstance(event, FinishedEvent):
                        event = await judge.judged(event)
                    yield event
        finally:
            if not is_over:
                self._engine.cancel(engine_id)
            lease.end(num_tokens)

    async def tokenize_text(self, text: str, model: ServedModel) -> list[int]:
        """Tokenise a text as it stands."""

        def tokens() -> list[int]:
            with _at("text"):
                return model.vocabulary.encode(text)

        return await self.beside(tokens)

    async def tokenize_prompt(
        self, command: PromptCommand, model: ServedModel
    ) -> tuple[Prompt, ...]:
        """Render and tokenise the prompts a recipe makes."""
        messages, field = self._messages(command)

        def prompts() -> tuple[Prompt, ...]:
            plan = self._plan(model, self._recipe(command.recipe)[1], command.recipe)
            return self._prompts(plan, messages, field)

        return await self.beside(prompts)

    async def create_recipe(self, document: Mapping[str, Any] | str) -> tuple[RecipeEntry, bool]:
        """Keep a recipe; the second value tells if that changed what its name stands for.

        One that no served model could run is refused as that model refuses it.
        """

        def create() -> tuple[RecipeEntry, bool]:
            recipe = Recipe.parse(document)
            self._check_usable(recipe)
            return self.recipes.create(recipe)

        return await self.beside(create)

    async def validate(self, document: Mapping[str, Any] | str, model: ServedModel) -> Validation:
        """Compile a recipe document for a model, and measure what its rules cost there."""
        plan = await self.beside(lambda: self._compile(model, Recipe.parse(document)))
        await self.constraints.program(plan, "constraint")
        if not model.device.startswith("cpu"):
            return Validation(plan, None)
        return Validation(plan, await self.beside(lambda: control_seconds(plan)))

    def model(self, name: str) -> ServedModel:
        """Return a model by name; "" is the default."""
        name = name or self.default_model
        if name not in self.models:
            raise UnknownModel(name, self.models)
        return self.models[name]

    @property
    def default_version(self) -> tuple[str, str]:
        """Name and version of the recipe that serves requests naming none."""
        return self.default_recipe, self.recipes.find(self.default_recipe).version

    def check_capacity(self) -> None:
        """Refuse to serve a model whose cache holds not even the default recipe's scaffold.

        Raises:
            InvalidConfig: every request would be refused; says what is needed.
        """
        recipe = self.recipes.get(self.default_recipe)
        for served in self.models.values():
            try:
                plan = self._plan(served, recipe, "")
            except (DecodingError, ServerError):
                continue  # This model is asked with other recipes.
            # One token of an instruction and one of an answer, in every stream.
            needed = plan.scaffold_tokens + 2 * plan.num_streams
            if served.cache_tokens < needed:
                raise InvalidConfig(
                    f"model '{served.name}': a cache of {served.cache_tokens} tokens cannot hold "
                    f"one request of recipe '{recipe.name}', which takes at least {needed}; "
                    "raise cache_tokens"
                )

    async def beside(self, work: Callable[[], Result]) -> Result:
        """Do in a thread what would hold up the event loop.

        Raises:
            QueueFull: too many calls wait for a thread.
        """
        limit = self.limits.max_preparing
        if self._num_preparing >= limit:
            waiting = f"{self._num_preparing} calls"
            raise QueueFull(waiting=waiting, limit=f"{limit} calls", retry_after=1.0)
        self._num_preparing += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._num_preparing -= 1

    def _check_usable(self, recipe: Recipe) -> None:
        """Raise what the default model says, unless another served model can run the recipe."""
        failure: DecodingError | None = None
        for served in self.models.values():
            try:
                self._compile(served, recipe)
            except DecodingError as error:
                failure = failure or error
            else:
                return
        if failure is not None:
            raise failure

    def _check(self, command: GenerateCommand) -> None:
        """Refuse what needs no recipe to be wrong."""
        limits = self.limits
        is_printable = command.request_id.isprintable()
        if not is_printable or len(command.request_id) > limits.max_request_id_chars:
            raise InvalidRequestId(limits.max_request_id_chars)
        if command.num_choices is not None:
            _within("num_choices", command.num_choices, 1, limits.max_choices)
        if command.logprobs >= 0:
            _within("logprobs.top", command.logprobs, 0, limits.max_top_logprobs)

    async def _with_program(self, started: Started, command: GenerateCommand) -> Started:
        """Compile the constraint of an accepted request."""
        where = "constraint"
        if command.constraint is None:
            is_named = isinstance(command.prompt.recipe, str)
            where = join_field("recipe" if is_named else "inline_recipe", where)
        program = await self.constraints.program(started.plan, where)
        self.constraints.check_budget(program, started.max_tokens)
        return replace(started, program=program)

    def _accept(
        self, command: GenerateCommand, arrival: float, assignment: Assignment | None
    ) -> Started:
        served = self.model(command.model)
        messages, field = self._messages(command.prompt)
        if command.max_tokens is not None:
            _within("max_tokens", command.max_tokens, 1, MAX_TOKENS)
        if assignment is None:
            name, recipe = self._recipe(command.prompt.recipe)
        else:
            name, recipe = assignment.variant.recipe_name, assignment.variant.recipe
        base_version = recipe.version
        if command.overrides:
            recipe = recipe.with_overrides(command.overrides)
        if command.constraint is not None:
            recipe = recipe.with_constraint(read_constraint(command.constraint, "constraint"))
        plan = self._plan(served, recipe, command.prompt.recipe)
        prompts = self._prompts(plan, messages, field)
        continuation: tuple[int, ...] = ()
        if command.continuation is None:
            with _at("max_tokens"):
                max_tokens = plan.output_budget(prompts, command.max_tokens)
        else:
            if recipe.constraint is not None:
                raise ConstraintUnsupported(
                    "a given text cannot be scored under a constraint", field="constraint"
                )
            limit = self.limits.max_scored_tokens
            continuation = given_tokens(plan, prompts, command.continuation, limit=limit)
            max_tokens = len(continuation)
        num_choices = command.num_choices or 1
        explain = None
        if command.explain:
            with located("explain"):
                explain = Counterfactuals.of(plan, self._stream_models)
        measured = None
        if assignment is not None and assignment.experiment.measures_dose:
            with located("experiment"):
                measured = explain or Counterfactuals.of(plan, self._stream_models)
        # An id and a value, before and after control, of the chosen token and of each other.
        per_token = 4 * (1 + command.logprobs)
        if explain is not None:
            per_token += 9 + 5 * len(explain.without)
        numbers = num_choices * max_tokens * per_token
        if numbers > _MAX_REPORTED_NUMBERS:
            raise ResponseTooLarge(
                numbers,
                _MAX_REPORTED_NUMBERS,
                field="explain" if command.logprobs < 0 else "logprobs.top",
            )
        return Started(
            request_id=command.request_id or uuid4().hex,
            model=served,
            recipe_name=name,
            base_version=base_version,
            overrides=command.overrides,
            plan=plan,
            prompts=prompts,
            seed=secrets.randbits(32) if command.seed is None else command.seed,
            max_tokens=max_tokens,
            num_choices=num_choices,
            continuation=continuation,
            arrival=arrival,
            explain=explain or measured,
            assignment=assignment,
        )

    def _sampled(self, started: Started) -> Counterfactuals | None:
        """Explain a request for the metrics now and then; who did not ask is never refused."""
        if started.continuation or random.random() >= self._explain_share:
            return None
        try:
            return Counterfactuals.of(started.plan, self._stream_models)
        except DecodingError:
            return None

    def _recipe(self, reference: str | Mapping[str, Any]) -> tuple[str, Recipe]:
        """Return a recipe and the bounded name it is counted under."""
        if isinstance(reference, str):
            recipe = self.recipes.get(reference or self.default_recipe)
            return recipe.name, recipe
        with located("inline_recipe"):
            return INLINE, Recipe.parse(reference)

    def _plan(
        self, served: ServedModel, recipe: Recipe, reference: str | Mapping[str, Any]
    ) -> Plan:
        with located("recipe" if isinstance(reference, str) else "inline_recipe"):
            return self._compile(served, recipe)

    def _compile(self, served: ServedModel, recipe: Recipe) -> Plan:
        return compile_recipe(
            recipe,
            served.vocabulary,
            context_tokens=served.context_tokens,
            models=self._stream_models,
        )

    def _messages(self, command: PromptCommand) -> tuple[Sequence[Message], str]:
        """Return what the user said, and the request field that holds it."""
        texts = [message.text for message in command.conversation or ()]
        num_bytes = sum(len(text.encode()) for text in (*texts, command.instruction or ""))
        if num_bytes > self.limits.max_prompt_bytes:
            field = "instruction" if command.conversation is None else "conversation"
            raise PromptTooLarge(field, num_bytes, self.limits.max_prompt_bytes)
        if command.conversation is not None:
            if len(command.conversation) > self.limits.max_messages:
                raise OutOfRange(
                    "conversation.messages",
                    len(command.conversation),
                    low=1,
                    high=self.limits.max_messages,
                )
            return command.conversation, "conversation"
        if command.instruction is None or not command.instruction.strip():
            raise MissingField("instruction", "there is nothing to answer")
        return [Message(role="user", text=command.instruction)], "instruction"

    def _prompts(self, plan: Plan, messages: Sequence[Message], field: str) -> tuple[Prompt, ...]:
        if field == "conversation":
            with _at(field), located(field):
                return plan.prompts(messages)
        with _at(field):
            return plan.prompts(messages)


def unexplained(event: CoreEvent) -> CoreEvent:
    """Take away what was explained for the server alone."""
    if isinstance(event, Started):
        return event
    if isinstance(event, TokensEvent):
        return event if event.explanations is None else replace(event, explanations=None)
    if all(ending.explanation is None for ending in event.endings):
        return event
    endings = tuple(replace(ending, explanation=None) for ending in event.endings)
    return replace(event, endings=endings)


def _refuse_other_recipes(command: GenerateCommand) -> None:
    recipe = command.prompt.recipe
    field = "recipe" if isinstance(recipe, str) else "inline_recipe"
    for name, value in ((field, recipe), ("overrides", command.overrides)):
        if value:
            raise InvalidRequest(
                f"{name}: the experiment gives the recipe; none may be named or changed beside it",
                field=name,
            )


def _priority(command: GenerateCommand) -> Priority:
    """Return whose turn a request is; unset: the usual, or less where the key has less.

    Raises:
        PriorityTooHigh: the key may not ask for it.
    """
    most = command.caller.max_priority
    if command.priority is None:
        return min(Priority.NORMAL, most)
    if command.priority > most:
        raise PriorityTooHigh(command.priority.name, most.name)
    return command.priority


def _within(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise OutOfRange(field, value, low=low, high=high)


@contextmanager
def _at(field: str) -> Iterator[None]:
    """Name the request's field for errors that know of none."""
    try:
        yield
    except DecodingError as error:
        if error.field is None:
            error.field = field
        raise
