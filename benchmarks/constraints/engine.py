"""The engine in process, asked with and without a constraint."""

import time
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks import models
from benchmarks.constraints.cases import WIDE
from benchmarks.constraints.vocabulary import wide_tokenizer
from benchmarks.engines import GREEDY, Collector
from bosal_decoding import Prompt, Recipe
from bosal_decoding.compile import compile as compile_recipe
from bosal_decoding.constraints import Constraint
from bosal_decoding.constraints.program import Program
from bosal_decoding.plan import Plan
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.request import EngineRequest, FailedEvent, TokensEvent
from bosal_server.engine.runner_choice import choose_runner
from bosal_server.model import LoadedModel, load_model


class Bench:
    """An engine over one model, asked with and without a constraint."""

    def __init__(self, model: LoadedModel, runner: str, *, max_groups: int = 32) -> None:
        self.model = model
        threads = torch.get_num_threads()
        engine_model = EngineModel(
            runner=choose_runner(model, preference=runner, threads=threads).runner,
            vocabulary=model.vocabulary,
            context_tokens=model.context_tokens,
            digest=model.digest,
        )
        config = EngineConfig(max_groups=max_groups, torch_threads=threads)
        self.loop = EngineLoop({model.name: engine_model}, config, self._deliver)
        self.loop.start()
        # When each step's events came, and whether a token of them was dictated.
        self.deliveries: list[tuple[float, bool]] = []
        self._count = 0

    def _deliver(self, events: list[tuple[object, Any]]) -> None:
        is_dictated = any(getattr(event, "forced_positions", ()) for _, event in events)
        self.deliveries.append((time.perf_counter(), is_dictated))
        for sink, event in events:
            assert isinstance(sink, Texts)
            sink.take(event)

    def plan(self, constraint: Constraint | None, **recipe: Any) -> Plan:
        document = {**GREEDY, **recipe}
        parsed = Recipe.parse(document)
        if constraint is not None:
            parsed = parsed.with_constraint(constraint)
        return compile_recipe(
            parsed, self.model.vocabulary, context_tokens=self.model.context_tokens
        )

    def submit(
        self,
        plan: Plan,
        program: Program | None,
        prompt: list[int],
        sink: "Texts",
        *,
        max_tokens: int,
        seed: int = 0,
        logprobs: int = -1,
    ) -> None:
        self._count += 1
        self.loop.submit(
            EngineRequest(
                request_id=str(self._count),
                model=self.model.name,
                plan=plan,
                prompts=(Prompt(text="", token_ids=tuple(prompt), history_ids=(), pin_tokens=0),),
                seed=seed,
                max_tokens=max_tokens,
                program=program,
                logprobs=logprobs,
            ),
            sink,
        )

    def cancel_last(self, count: int) -> None:
        """Cancel the requests submitted last."""
        for number in range(self._count - count + 1, self._count + 1):
            self.loop.cancel(str(number))


class Texts(Collector):
    """Keeps the texts and the times of tokens beside what it counts."""

    def __init__(self, left: int) -> None:
        super().__init__(left)
        self.text = ""
        self.reason = ""
        self.times: list[float] = []

    def take(self, event: Any) -> None:
        if isinstance(event, FailedEvent):  # cancelled, once enough of it was timed
            self.done.set()
            return
        if isinstance(event, TokensEvent):
            self.text += event.text
            self.times += [time.perf_counter()] * len(event.token_ids)
        elif hasattr(event, "endings"):
            self.reason = event.endings[0].reason.value
        super().take(event)


def save_wide(name: str, folder: str) -> None:
    """Write a benchmark model whose head and tokenizer have 128,256 entries."""
    size = models.VOCABULARY_SIZE
    models.VOCABULARY_SIZE = WIDE
    try:
        models.build(name).save_pretrained(folder)
        wide_tokenizer(WIDE).save_pretrained(folder)
    finally:
        models.VOCABULARY_SIZE = size


def wide_model(name: str) -> LoadedModel:
    """Return a benchmark model whose head and tokenizer have 128,256 entries."""
    with TemporaryDirectory() as folder:
        save_wide(name, folder)
        return load_model(name, folder, dtype="auto")
