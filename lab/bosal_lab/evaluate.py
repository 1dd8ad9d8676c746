"""Asks a server every item under every arm, some at a time, and stores each answer as it comes."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bosal_client import (
    AsyncClient,
    BosalError,
    Cancelled,
    DeadlineExceeded,
    Generation,
    InternalError,
    InvalidRequest,
    Overloaded,
    Unavailable,
    Unimplemented,
)
from bosal_client.descriptions import Validation
from bosal_client.requests import GenerationOptions, Message, Prompt
from bosal_lab.evaluation_errors import ArmChangedError, ArmError, ServerLostError
from bosal_lab.forms import form_of, is_formed
from bosal_lab.item import Answer, Item, Split, Suite
from bosal_lab.recipe_files import RecipeFile
from bosal_lab.record import Arm, Record
from bosal_lab.results import Results

__all__ = ["AskedRecipe", "Settings", "add_arms", "evaluate", "seed_of"]

# A recipe as it is asked for: by a name the server knows, as a document, or in a file.
AskedRecipe = str | Mapping[str, Any] | RecipeFile

# How long a full or failing server is given to come back, in seconds.
_PATIENCE = 60.0
_PROBE_SECONDS = 10.0

# What concerns one request alone: it is recorded, and the run goes on.
_ONE_REQUEST = (InvalidRequest, Unimplemented, InternalError, Cancelled, DeadlineExceeded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a run asks; only `split` and `samples` decide what is asked."""

    split: Split | None = None
    samples: int = 1
    # Requests under way at once.
    window: int = 16
    # Seconds one answer may take.
    timeout: float | None = 300.0
    # Ask for each token's rank in the base stream's row.
    has_ranks: bool = True
    # Ask again what ended in an error.
    retries_errors: bool = False


def seed_of(noise: str, item: str, sample: int, turn: int) -> int:
    """Return the seed of one request: the same for every arm of the same noise."""
    text = f"{noise}/{item}/{sample}/{turn}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1  # The wire's seed is signed.


async def add_arms(
    client: AsyncClient,
    results: Results,
    asked: Iterable[tuple[str, AskedRecipe]],
    *,
    seed: int,
    is_coupled: bool = True,
    max_tokens: int | None = None,
) -> list[Arm]:
    """Make an arm of each model and recipe; one that is recorded must be as it was.

    "" is the server's default model; a recipe is a name the server knows, a document or a file.
    """
    served = {model.name: model for model in await client.models()}
    default = next((model.name for model in served.values() if model.is_default), "")
    arms: dict[str, Arm] = {}
    for name, recipe in asked:
        model = name or default
        if model not in served:
            raise ArmError.unknown("model", model, served)
        arm = await _arm(client, model, served[model].digest, recipe)
        noise = str(seed) if is_coupled else f"{seed}/{arm.name}"
        arm = replace(arm, noise=noise, max_tokens=max_tokens)
        if arm != arms.setdefault(arm.name, arm):
            raise ArmError(f"two recipes are called {arm.recipe!r}")
    recorded = results.arms
    for arm in arms.values():
        if arm.name in recorded:
            _check_unchanged(recorded[arm.name], arm)
    for arm in arms.values():
        if arm.name not in recorded:
            results.add_arm(arm)
    return list(arms.values())


async def _arm(client: AsyncClient, model: str, digest: str, recipe: AskedRecipe) -> Arm:
    pinned = ""
    if isinstance(recipe, RecipeFile):
        read = await _validated(client, recipe.name, recipe.text, model)
        recipe = {"name": recipe.name} | dict(read.document)
    if isinstance(recipe, str):
        known = await client.recipe(recipe)
        name, document = recipe, known.document
        pinned = f"{recipe.partition('@')[0]}@{known.version}"
    else:
        name, document = recipe.get("name") or "inline", recipe
    version = (await _validated(client, name, document, model)).version
    return Arm(
        name=f"{model}/{name}",
        model=model,
        model_digest=digest,
        recipe=name,
        recipe_version=version,
        recipe_document=document,
        pinned=pinned,
    )


async def _validated(
    client: AsyncClient, name: str, recipe: str | Mapping[str, Any], model: str
) -> Validation:
    try:
        return await client.validate(recipe, model=model)
    except InvalidRequest as error:
        raise ArmError(f"recipe {name} does not work with model {model}: {error}") from error


def _check_unchanged(recorded: Arm, found: Arm) -> None:
    for field in ("model_digest", "recipe_version", "max_tokens", "noise"):
        before, now = getattr(recorded, field), getattr(found, field)
        if before != now:
            raise ArmChangedError(recorded.name, field.replace("_", " "), before, now)


async def evaluate(
    client: AsyncClient,
    results: Results,
    suite: Suite,
    arms: Sequence[Arm],
    settings: Settings,
    observe: Callable[[Record], None] = lambda record: None,
) -> None:
    """Ask what has no answer yet; `observe` sees each record once it is stored."""
    run = _Run(client, results, suite, settings, observe)
    wanted = [
        (arm, item, sample)
        for sample in range(settings.samples)
        for item in suite.of(settings.split)
        for arm in arms
    ]
    done = results.done(with_errors=not settings.retries_errors)
    waiting = deque(
        (arm, item, sample)
        for arm, item, sample in wanted
        if (arm.name, item.id, sample) not in done
    )
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(settings.window, len(waiting))):
                group.create_task(run.work(waiting))
    except ExceptionGroup as failures:
        # The first failure ended the run; the others are its consequences.
        failure = failures.exceptions[0]
        if not isinstance(failure, Unavailable):
            raise failure from None
        stored = results.done(with_errors=True)
        num_stored = sum((arm.name, item.id, sample) in stored for arm, item, sample in wanted)
        raise ServerLostError(results.path, num_stored, len(wanted), str(failure)) from None


class _Run:
    """The settings of one run and where its answers go."""

    def __init__(
        self,
        client: AsyncClient,
        results: Results,
        suite: Suite,
        settings: Settings,
        observe: Callable[[Record], None],
    ) -> None:
        self._client = client
        self._results = results
        self._suite = suite
        self._settings = settings
        self._observe = observe

    async def work(self, waiting: deque[tuple[Arm, Item, int]]) -> None:
        while waiting:
            arm, item, sample = waiting.popleft()
            try:
                record = await self._answer(arm, item, sample)
            except _ONE_REQUEST as error:
                record = Record(
                    arm=arm.name,
                    item=item.id,
                    sample=sample,
                    seed=seed_of(arm.noise, item.id, sample, 0),
                    error=f"{type(error).__name__}: {error}",
                    started={},
                    timings={},
                )
                self._results.add(record, None)
            else:
                answer = Answer(
                    text=record.text,
                    finish_reason=record.finish_reason,
                    num_tokens=len(record.token_ids),
                )
                self._results.add(record, self._suite.scorer.score(item, answer))
            self._observe(record)

    async def _answer(self, arm: Arm, item: Item, sample: int) -> Record:
        """Hold an item's conversation and return the last answer."""
        answers: list[Generation] = []
        seed = 0
        for turn in range(len(item.to_answer)):
            seed = seed_of(arm.noise, item.id, sample, turn)
            said = item.asked([answer.text for answer in answers])
            is_last = turn == len(item.to_answer) - 1
            form = form_of(item) if is_last and is_formed(arm.recipe) else None
            answers.append(await self._generate(arm, said, seed, form))
        last = answers[-1]
        choice = last.choices[0]
        started = asdict(last.started)
        del started["recipe"]  # The arm's.
        return Record(
            arm=arm.name,
            item=item.id,
            sample=sample,
            seed=seed,
            text=choice.text,
            earlier=tuple(answer.text for answer in answers[:-1]),
            token_ids=choice.token_ids,
            ranks=choice.logprobs.raw_rank if choice.logprobs is not None else (),
            finish_reason=choice.finish_reason,
            matched_stop=choice.matched_stop,
            started=started,
            timings=asdict(last.timings),
        )

    async def _generate(
        self, arm: Arm, said: Sequence[Message], seed: int, form: Mapping[str, Any] | None
    ) -> Generation:
        options = GenerationOptions(
            model=arm.model, recipe=arm.pinned or arm.recipe_document, seed=seed, num_choices=1
        )
        if form is not None:
            options["constraint"] = form
        if arm.max_tokens is not None:
            options["max_tokens"] = arm.max_tokens
        if self._settings.has_ranks:
            options["logprobs"] = 0
        generation = await self._patiently(said[0].text if len(said) == 1 else said, options)
        started = generation.started
        # A form makes another recipe of it, item by item.
        for field in ("model_digest", "recipe_version")[: 1 if form is not None else 2]:
            before, now = getattr(arm, field), getattr(started, field)
            if before != now:
                raise ArmChangedError(arm.name, field.replace("_", " "), before, now)
        return generation

    async def _patiently(self, prompt: Prompt, options: GenerationOptions) -> Generation:
        """Wait for a full server; tell a failed request from a server that is gone."""
        give_up = asyncio.get_running_loop().time() + _PATIENCE
        while True:
            try:
                return await self._client.generate(
                    prompt, timeout=self._settings.timeout, **options
                )
            except Overloaded as error:
                if asyncio.get_running_loop().time() > give_up:
                    raise Unavailable(f"it stayed full: {error}") from None
                await asyncio.sleep(error.retry_after or 1.0)
            except (InternalError, Cancelled, DeadlineExceeded) as error:
                await self._probe(error)
                raise

    async def _probe(self, failure: BosalError) -> None:
        try:
            await self._client.server_info(timeout=_PROBE_SECONDS)
        except BosalError:
            raise Unavailable(str(failure)) from None
