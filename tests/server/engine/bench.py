"""The engine without its thread, and helpers to ask it things."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch

from bosal_decoding.errors import PluginFault
from bosal_decoding.plan import Plan
from bosal_decoding.prompt import Prompt
from bosal_server.engine.active_request import ActiveRequest
from bosal_server.engine.engine_model import EngineModel
from bosal_server.engine.observer import EngineObserver, NullObserver
from bosal_server.engine.request import (
    EngineEvent,
    EngineRequest,
    FailedEvent,
    FinishedEvent,
    TokensEvent,
)
from bosal_server.engine.stepper import Stepper
from bosal_server.engine.waiting_room import WaitingRoom
from bosal_server.errors import ServerError

MakeBench = Callable[..., "Bench"]
MakeModel = Callable[..., EngineModel]
GREEDY = ({"rule": "temperature", "value": 0},)


@dataclass
class Answer:
    """All that came back for one request."""

    events: list[EngineEvent] = field(default_factory=list)

    def tokens(self, choice: int = 0) -> list[int]:
        tokens: list[int] = []
        for event in self.events:
            if isinstance(event, TokensEvent) and event.choice == choice:
                assert event.first_position == len(tokens)
                tokens += event.token_ids
        return tokens

    def text(self, choice: int = 0) -> str:
        return "".join(
            event.text
            for event in self.events
            if isinstance(event, TokensEvent) and event.choice == choice
        )

    @property
    def finished(self) -> FinishedEvent:
        last = self.events[-1]
        assert isinstance(last, FinishedEvent), last
        return last

    @property
    def error(self) -> ServerError | PluginFault:
        last = self.events[-1]
        assert isinstance(last, FailedEvent), last
        return last.error

    @property
    def is_over(self) -> bool:
        return bool(self.events) and not isinstance(self.events[-1], TokensEvent)


class _Room(WaitingRoom):
    """A room whose guests come in without knocking."""

    def __init__(self, left: list[str], max_queue_seconds: float | None) -> None:
        super().__init__(1 << 30, max_queue_seconds=max_queue_seconds)
        self._left = left

    def leave(self, active: ActiveRequest, *, was_admitted: bool) -> None:
        self._left.append(active.request.request_id)


class Bench:
    """A stepper whose steps the test takes."""

    def __init__(
        self,
        models: Mapping[str, EngineModel],
        observer: EngineObserver | None = None,
        **limits: float,
    ) -> None:
        self.models = dict(models)
        self.left_queue: list[str] = []
        self.stepper = Stepper(
            models,
            max_groups=int(limits.get("max_groups", 8)),
            max_batch_tokens=int(limits.get("max_batch_tokens", 512)),
            plugin_seconds=limits.get("plugin_seconds", 30.0),
            observer=observer or NullObserver(),
            room=_Room(self.left_queue, limits.get("max_queue_seconds")),
        )
        self.answers: dict[str, Answer] = {}
        self._ids = count()

    @property
    def held_blocks(self) -> int:
        pools = [self.stepper.allocator(name) for name in self.models]
        return sum(pool.num_held + pool.num_reserved for pool in pools)

    def submit(self, plan: Plan, prompt: Sequence[int], **options: Any) -> Answer:
        request_id = options.pop("request_id", f"r{next(self._ids)}")
        request = EngineRequest(
            request_id=request_id,
            model=options.pop("model", next(iter(self.models))),
            plan=plan,
            prompts=options.pop("prompts", None) or (make_prompt(prompt),),
            seed=options.pop("seed", 0),
            max_tokens=options.pop("max_tokens", 12),
            **options,
        )
        answer = Answer()
        self.answers[request_id] = answer
        self.stepper.roster.add(ActiveRequest(request, answer))
        return answer

    @torch.inference_mode()
    def step(self) -> None:
        if self.stepper.has_work:
            self.stepper.step()
        self.collect()

    @torch.inference_mode()
    def cancel(self, answer: Answer) -> None:
        request_id = next(key for key, value in self.answers.items() if value is answer)
        self.stepper.roster.cancel(request_id)
        self.collect()

    def collect(self) -> None:
        for sink, event in self.stepper.roster.take_events():
            assert isinstance(sink, Answer)
            assert not sink.is_over, "an event after the last one"
            sink.events.append(event)

    def run(self, limit: int = 2000) -> None:
        for _ in range(limit):
            if not self.stepper.has_work:
                self.collect()
                return
            self.step()
        raise AssertionError("the engine is stuck")


def make_prompt(token_ids: Sequence[int], pin_tokens: int = 0) -> Prompt:
    ids = tuple(token_ids)
    return Prompt(text="", token_ids=ids, history_ids=ids, pin_tokens=pin_tokens)


def make_prompts(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(1, 400) for _ in range(length)] for length in lengths]


def alone(make_bench: MakeBench, plan: Plan, prompt: list[int], **options: Any) -> Answer:
    bench = make_bench()
    answer = bench.submit(plan, prompt, **options)
    bench.run()
    return answer
