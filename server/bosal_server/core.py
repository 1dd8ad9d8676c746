"""What the server does with a request, free of any transport."""

import random
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, aclosing
from itertools import count
from typing import Final

from bosal_decoding.constraints.compiler import ConstraintCompiler
from bosal_decoding.counterfactuals import Counterfactuals
from bosal_decoding.errors import DecodingError
from bosal_decoding.prompt import Prompt
from bosal_server.acceptance import Acceptance
from bosal_server.call import current_call
from bosal_server.constraint_desk import ConstraintDesk
from bosal_server.delivery_filter import DeliveryFilter
from bosal_server.engine.loop import EngineLoop
from bosal_server.engine.request import FailedEvent, FinishedEvent, TokensEvent
from bosal_server.enrolment_desk import EnrolmentDesk
from bosal_server.experiments.enrolment import Assignment
from bosal_server.experiments.manager import ExperimentManager
from bosal_server.generate_command import GenerateCommand, PromptCommand
from bosal_server.limits import Limits
from bosal_server.live_traffic import LiveTraffic
from bosal_server.mailbox import Mailbox
from bosal_server.metrics import MeteredRequest, Metrics
from bosal_server.preparation import Preparation
from bosal_server.recipe_desk import RecipeDesk
from bosal_server.recipe_store import RecipeStore
from bosal_server.security.caller import ANYBODY, Caller, Priority
from bosal_server.security.errors import PriorityTooHigh
from bosal_server.security.quota import QuotaLedger
from bosal_server.served_models import ServedModel, ServedModels
from bosal_server.shadowing import Shadowing
from bosal_server.started import CoreEvent, Started, unexplained

# Of text that nobody has tokenised yet.
_CHARACTERS_PER_TOKEN: Final = 4


class GenerationCore:
    """Accepts requests, enrols them in experiments and runs them on the engine.

    Methods belong to one event loop. Whatever takes time runs in a thread beside it.
    """

    def __init__(
        self,
        *,
        models: Sequence[ServedModel],
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
        delivery_filter: DeliveryFilter | None = None,
        trace: Callable[[Started, FinishedEvent | BaseException | None], None] | None = None,
        log_prompts: bool = False,
    ) -> None:
        """Serve; a share of requests that do not ask for it is explained for the metrics."""
        self.models = ServedModels(models)
        self.recipes = recipes
        self.default_recipe = default_recipe
        self.limits = limits
        self.versions = dict(versions)
        self.experiments = experiments
        self.constraints = ConstraintDesk(
            constraints or ConstraintCompiler(), metrics.observe_compile
        )
        self._preparation = Preparation(limits.max_preparing)
        self._acceptance = Acceptance(
            models=self.models,
            recipes=recipes,
            default_recipe=default_recipe,
            limits=limits,
            constraints=self.constraints,
            preparation=self._preparation,
            log_prompts=log_prompts,
        )
        self._quotas = QuotaLedger()
        self.recipe_desk = RecipeDesk(
            models=self.models,
            recipes=recipes,
            default_recipe=default_recipe,
            constraints=self.constraints,
            preparation=self._preparation,
            quotas=self._quotas,
        )
        # Recipes whose scaffold's cache different callers share.
        self._shared_scaffolds = frozenset(shared_scaffolds)
        self._engine = engine
        self._metrics = metrics
        self._explain_share = explain_share
        self._filter = delivery_filter
        # Told of every request that ran, with its end; None: it was cancelled.
        self._trace = trace
        self._numbers = count()
        self._traffic = LiveTraffic()
        self._shadowing = Shadowing(
            accept=self._acceptance.accept,
            engine=engine,
            experiments=experiments,
            traffic=self._traffic,
            models=self.models.streams,
        )
        self._enrolment = EnrolmentDesk(
            acceptance=self._acceptance, experiments=experiments, shadowing=self._shadowing
        )

    def close(self) -> None:
        self._shadowing.close()
        self._preparation.close()
        self.constraints.close()
        if self._filter is not None:
            self._filter.close()

    @property
    def has_work(self) -> bool:
        """Whether a request waits or runs."""
        return self._engine.has_work

    @property
    def is_crowded(self) -> bool:
        """Whether many requests are being turned away for those that run."""
        return self._engine.is_crowded and self._engine.has_work

    def check_room(self, caller: Caller, priority: Priority | None, deadline: float | None) -> None:
        """Refuse a request that could not wait, before anything is made of it.

        Raises:
            QueueFull, DeadlineUnreachable: there is no room, or no time.
            PriorityTooHigh: the key may not ask for it.
        """
        self._engine.check_room(
            key_id=caller.key_id, priority=_priority(caller, priority), deadline=deadline
        )

    async def generate(self, command: GenerateCommand) -> AsyncGenerator[CoreEvent, None]:
        """Yield Started, then tokens as they come, then the end; an error is raised.

        Tokens that became ready together come as one event per choice. Closing the iterator
        early cancels the request.
        """
        self._quotas.check(command.caller)
        started, trial = await self._enrolment.begin(command)
        with trial.watching():
            async with aclosing(self.run(started, command)) as events:
                async for event in events:
                    trial.observe(event)
                    yield event if command.explain else unexplained(event)

    async def accept(
        self, command: GenerateCommand, assignment: Assignment | None = None
    ) -> Started:
        """Resolve, check, compile and tokenise a request; nothing runs yet."""
        self._quotas.check(command.caller)
        return await self._acceptance.accept(command, assignment)

    async def run(
        self, started: Started, command: GenerateCommand
    ) -> AsyncGenerator[CoreEvent, None]:
        """Yield an accepted request itself, then what the engine makes of it."""
        judge = self.constraints.judge(started.program, owner=command.caller.key_id)
        filtered = None if self._filter is None else self._filter.watch()
        # The client's id may repeat while a call it retries is still being cancelled.
        engine_id = f"{started.request_id}#{next(self._numbers)}"
        mailbox = Mailbox()
        metrics = self._metrics.bind(started.model.name, started.recipe_name, started.variant_label)
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
            priority=_priority(command.caller, command.priority),
            key_id=command.caller.key_id,
            cache_salt=command.caller.cache_salt,
            shares_scaffold=started.recipe_name in self._shared_scaffolds,
            arrival=started.arrival,
            metrics=metrics,
            label=metrics.recipe,
        )
        is_over = False
        outcome: FinishedEvent | BaseException | None = None
        num_tokens = sum(len(prompt.token_ids) for prompt in started.prompts)
        lease = self._quotas.lease(
            command.caller,
            choices=started.num_choices,
            tokens=num_tokens + started.num_choices * started.max_tokens,
        )
        live = ExitStack()
        live.enter_context(self._traffic.request())
        try:
            self._engine.submit(request, mailbox)
        except BaseException:
            live.close()
            lease.end(0)
            raise
        if (call := current_call.get()) is not None:
            call.has_run = True
        try:
            yield started
            while not is_over:
                for event in await mailbox.take():
                    if isinstance(event, FailedEvent):
                        is_over = True
                        raise event.error
                    if isinstance(event, TokensEvent):
                        num_tokens += len(event.token_ids)
                    if isinstance(event, FinishedEvent):
                        is_over, outcome = True, event
                    if judge is not None and isinstance(event, TokensEvent):
                        judge.note(event)
                    elif judge is not None and isinstance(event, FinishedEvent):
                        event = await judge.judged(event)
                    if filtered is not None:
                        await filtered.check(event)
                    yield event
        except Exception as error:
            outcome = error
            raise
        finally:
            if not is_over:
                self._engine.cancel(engine_id)
            live.close()
            lease.end(num_tokens)
            if self._trace is not None:
                self._trace(started, outcome)

    async def tokenize_text(
        self, text: str, model: ServedModel, caller: Caller = ANYBODY
    ) -> list[int]:
        """Tokenise a text as it stands."""
        with self._quotas.spending(caller, len(text) // _CHARACTERS_PER_TOKEN) as spending:
            token_ids = await self._acceptance.tokenize_text(text, model)
            spending.tokens = len(token_ids)
        return token_ids

    async def tokenize_prompt(
        self, command: PromptCommand, model: ServedModel, caller: Caller = ANYBODY
    ) -> tuple[Prompt, ...]:
        """Render and tokenise the prompts a recipe makes."""
        guess = command.num_characters // _CHARACTERS_PER_TOKEN
        with self._quotas.spending(caller, guess) as spending:
            prompts = await self._acceptance.tokenize_prompt(command, model)
            spending.tokens = sum(len(prompt.token_ids) for prompt in prompts)
        return prompts

    def _sampled(self, started: Started) -> Counterfactuals | None:
        """Explain a request for the metrics now and then; who did not ask is never refused."""
        if started.continuation or random.random() >= self._explain_share:
            return None
        try:
            found = Counterfactuals.of(started.plan, self.models.streams)
        except DecodingError:
            return None
        return found if started.model.can_explain(found) else None


def _priority(caller: Caller, wanted: Priority | None) -> Priority:
    """Return whose turn a request is; unset: the usual, or less where the key has less.

    Raises:
        PriorityTooHigh: the key may not ask for it.
    """
    most = caller.max_priority
    if wanted is None:
        return min(Priority.NORMAL, most)
    if wanted > most:
        raise PriorityTooHigh(wanted.name, most.name)
    return wanted
