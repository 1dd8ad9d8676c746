"""A request inside the engine: its groups, its outputs, and when what happened."""

from bosal_decoding.nudging import Nudger
from bosal_decoding.phrases import PhraseBook
from bosal_server.engine.choice import ChoiceOutput
from bosal_server.engine.group import GuideStream, Stream, StreamGroup
from bosal_server.engine.request import (
    ChoiceEnding,
    EngineRequest,
    FinishedEvent,
    StreamUsage,
    Timings,
    Usage,
)
from bosal_server.engine.scoring import Scoring


class ActiveRequest:
    """One request from submission to its last event."""

    __slots__ = (
        "_admitted_at",
        "_first_token_at",
        "_last_token_at",
        "groups",
        "is_over",
        "outputs",
        "request",
        "sink",
        "token_gaps",
    )

    def __init__(self, request: EngineRequest, sink: object) -> None:
        self.request = request
        self.sink = sink
        self.groups = [
            StreamGroup(
                request.request_id,
                choice,
                _streams(request),
                request.max_tokens,
                Scoring(request.continuation) if request.continuation else None,
                request.plan.rules,
                priority=request.priority,
                key_id=request.key_id,
                label=request.label,
                num_shadows=0 if request.explain is None else request.explain.num_plans,
            )
            for choice in range(request.num_choices)
        ]
        if request.plan.guide is not None:
            for group in self.groups:
                group.nudger = Nudger(
                    request.plan.guide,
                    request.plan.vocabulary,
                    request.stream_rooms[-1],
                    hidden=request.prompts[0].opening.hidden,
                )
        if request.plan.phrases:
            last = request.continuation[-1:]
            end = last if request.plan.eos_ids.issuperset(last) else ()
            for group in self.groups:
                group.phrases = PhraseBook(request.plan.phrases, request.max_tokens, end)
        self.outputs = [
            ChoiceOutput(
                choice,
                request.plan,
                request.max_tokens,
                has_logprobs=request.logprobs >= 0,
                is_explained=request.explain is not None,
                hidden=request.prompts[0].opening.hidden,
            )
            for choice in range(request.num_choices)
        ]
        self.is_over = False
        self.token_gaps: list[float] = []
        self._admitted_at: float | None = None
        self._first_token_at: float | None = None
        self._last_token_at: float | None = None

    @property
    def cost(self) -> int:
        """Tokens all its groups may take in the caches."""
        return sum(group.cost for group in self.groups)

    @property
    def was_admitted(self) -> bool:
        return self._admitted_at is not None

    def note_admission(self, now: float) -> None:
        if self._admitted_at is None:
            self._admitted_at = now

    def note_token(self, output: ChoiceOutput, now: float) -> bool:
        """Record when a choice's token was drawn; return whether it is the request's first."""
        if output.last_token_at is not None:
            self.token_gaps.append(now - output.last_token_at)
        output.last_token_at = now
        self._last_token_at = now
        is_first = self._first_token_at is None
        if is_first:
            self._first_token_at = now
        return is_first

    @property
    def start_seconds(self) -> float | None:
        """From admission to the first token; None: it has none yet."""
        if self._admitted_at is None or self._first_token_at is None:
            return None
        return self._first_token_at - self._admitted_at

    @property
    def endings(self) -> tuple[ChoiceEnding, ...] | None:
        """Every choice's ending; None while one goes on."""
        endings = tuple(output.ending for output in self.outputs if output.ending is not None)
        return endings if len(endings) == len(self.outputs) else None

    def finished(self, endings: tuple[ChoiceEnding, ...], now: float) -> FinishedEvent:
        """Return the last event of a request whose choices have all ended."""
        admitted = now if self._admitted_at is None else self._admitted_at
        first = now if self._first_token_at is None else self._first_token_at
        last = now if self._last_token_at is None else self._last_token_at
        arrival = self.request.arrival
        return FinishedEvent(
            endings,
            Usage(
                prompt_tokens=sum(len(prompt.token_ids) for prompt in self.request.prompts),
                cached_prompt_tokens=sum(stream.cached_tokens for stream in self.groups[0].streams),
                output_tokens=sum(ending.output_tokens for ending in endings),
                streams=tuple(
                    StreamUsage(
                        plan.role,
                        self.groups[0].streams[i].model,
                        len(self.request.prompts[i].token_ids),
                        sum(group.streams[i].num_forwards for group in self.groups),
                    )
                    for i, plan in enumerate(self.request.plan.all_streams)
                ),
            ),
            Timings(
                queue=admitted - arrival,
                prefill=first - admitted,
                time_to_first_token=first - arrival,
                decode=last - first,
                total=now - arrival,
            ),
        )


def _streams(request: EngineRequest) -> list[Stream]:
    streams: list[Stream] = []
    for index, (model, prompt) in enumerate(
        zip(request.stream_models, request.prompts, strict=True)
    ):
        if index < request.plan.num_streams:
            stream = Stream(
                model,
                prompt.token_ids,
                prompt.pin_tokens,
                cache_salt=request.cache_salt,
                shares_scaffold=request.shares_scaffold,
            )
        else:
            stream = GuideStream(
                model,
                prompt.token_ids,
                prompt.pin_tokens,
                request.stream_rooms[index],
                cache_salt=request.cache_salt,
                shares_scaffold=request.shares_scaffold,
            )
        streams.append(stream)
    return streams
