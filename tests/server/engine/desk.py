"""An engine in its thread, whose forward passes a test holds up."""

import time
from dataclasses import replace
from threading import Event, get_ident
from typing import Any

import torch

from bosal_decoding.plan import Plan
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.loop import EngineConfig, EngineLoop
from bosal_server.engine.request import EngineEvent, EngineRequest
from bosal_server.engine.runner import ModelRunner
from bosal_server.engine.step import StepPlan

from .bench import Answer, make_prompt
from .wrapped_runner import WrappedRunner


class GatedRunner(WrappedRunner):
    """A runner whose forward passes wait until the test lets them through."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner)
        self.gate = Event()
        self.gate.set()
        self.is_waiting = Event()
        self.is_closed = False

    def forward(self, plan: StepPlan) -> torch.Tensor:
        self.is_waiting.set()
        assert self.gate.wait(30)
        return super().forward(plan)

    def close(self) -> None:
        self.is_closed = True
        super().close()


class Desk:
    """An engine in its thread, and who gets its answers."""

    def __init__(self, model: EngineModel, plan: Plan, **config: Any) -> None:
        self.runner = GatedRunner(model.runner)
        self.plan = plan
        self.batches: list[list[tuple[object, EngineEvent]]] = []
        self.threads: set[int] = set()
        self.loop = EngineLoop(
            {"tiny": replace(model, runner=self.runner)}, EngineConfig(**config), self._deliver
        )

    def _deliver(self, batch: list[tuple[object, EngineEvent]]) -> None:
        self.threads.add(get_ident())
        self.batches.append(batch)
        for sink, event in batch:
            assert isinstance(sink, Answer)
            sink.events.append(event)

    def submit(self, request_id: str, prompt: list[int], **options: Any) -> Answer:
        answer = Answer()
        request = EngineRequest(
            request_id=request_id,
            model=options.pop("model", "tiny"),
            plan=self.plan,
            prompts=(make_prompt(prompt),),
            seed=0,
            max_tokens=options.pop("max_tokens", 10),
            **options,
        )
        self.loop.submit(request, answer)
        return answer

    def wait(self, *answers: Answer) -> None:
        until = time.monotonic() + 30
        while not all(answer.is_over for answer in answers):
            assert time.monotonic() < until
            time.sleep(0.002)
