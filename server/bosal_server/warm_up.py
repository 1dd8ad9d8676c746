"""A first generation with every model, before anybody may ask."""

import logging
from contextlib import suppress
from time import monotonic

from bosal_decoding.errors import DecodingError
from bosal_server.core import GenerationCore
from bosal_server.engine.loop import EngineLoop
from bosal_server.engine.request import EngineRequest, FailedEvent, FinishedEvent
from bosal_server.errors import ServerError
from bosal_server.generate_command import GenerateCommand, PromptCommand
from bosal_server.mailbox import Mailbox
from bosal_server.started import Started

log = logging.getLogger(__name__)

# Enough for a prefill and a step that decodes.
_TOKENS = 2
_INSTRUCTION = "Hello"


class WarmUpFailed(ServerError):
    """Raised when a model cannot generate; says so instead of serving it."""

    reason = "WARM_UP_FAILED"
    code = "FAILED_PRECONDITION"

    def __init__(self, model: str, cause: str) -> None:
        super().__init__(f"model '{model}' failed at its first generation: {cause}")


async def warm_up(core: GenerationCore, engine: EngineLoop) -> None:
    """Generate with the default recipe, or `plain` where that is not for a model.

    The metrics of requests do not count it, those of the engine do. The default scaffold is in the
    prefix cache afterwards.

    Raises:
        WarmUpFailed: nothing came out.
    """
    for model in core.models:
        begin = monotonic()
        started = await _accept(core, model.name)
        if started is None:
            log.info("model %s takes no recipe of this server alone: not warmed up", model.name)
            continue
        mailbox = Mailbox()
        request = EngineRequest(
            request_id=f"warm-up {model.name}",
            model=model.name,
            plan=started.plan,
            prompts=started.prompts,
            program=started.program,
            seed=0,
            max_tokens=started.max_tokens,
        )
        engine.submit(request, mailbox)
        event = None
        while not isinstance(event, FinishedEvent):
            for event in await mailbox.take():
                if isinstance(event, FailedEvent):
                    raise WarmUpFailed(model.name, str(event.error))
        log.info("model %s generated after %.2f s", model.name, monotonic() - begin)


async def _accept(core: GenerationCore, model: str) -> Started | None:
    for recipe in (core.default_recipe, "plain"):
        # An overflow, say: the default recipe's scaffold need not fit every model.
        with suppress(DecodingError, ServerError):
            return await core.accept(
                GenerateCommand(
                    prompt=PromptCommand(instruction=_INSTRUCTION, recipe=recipe),
                    model=model,
                    max_tokens=_TOKENS,
                )
            )
    return None
