"""Many requests at once: nothing is lost, nothing stays behind, nobody disturbs another."""

import asyncio
import random
from pathlib import Path
from typing import Any

from tests.live_server import LiveServer, eventually, serving

from bosal_client import (
    AsyncClient,
    Cancelled,
    DeadlineExceeded,
    GenerationOptions,
    InvalidRequest,
    Overloaded,
)

WORDS = "one two three four five six seven eight nine ten eleven twelve the cat sat on the mat"
LABELS = {"model": "tiny"}


def is_idle(server: LiveServer) -> bool:
    """Say whether no choice runs or waits and no block is held."""
    return (
        server.metric("bosal_running_groups") == 0
        and server.metric("bosal_waiting_groups") == 0
        and server.metric("bosal_kv_blocks_used", **LABELS) == 0
    )


async def ask(client: AsyncClient, number: int, rng: random.Random) -> str:
    """Issue one request of a random kind; return how it went."""
    words = WORDS.split()
    prompt = " ".join(rng.choices(words, k=rng.randint(1, 40)))
    recipes: list[str | dict[str, Any]]
    recipes = ["plain", "rules", {"rules": [{"rule": "min_p", "p": 0.05}]}]
    options = GenerationOptions(
        recipe=rng.choice(recipes),
        seed=number,
        max_tokens=rng.randint(1, 60),
        num_choices=rng.choice([1, 1, 1, 3]),
        logprobs=rng.choice([0, 2]),
    )
    match number % 8:
        case 0:  # Cancelled before anything came.
            stream = client.stream(prompt, **options)
            stream.cancel()
            return "cancelled"
        case 1 | 2:  # Cancelled in the middle.
            async with client.stream(prompt, **(options | {"max_tokens": 200})) as stream:
                async for _ in stream:
                    break
                stream.cancel()
                try:
                    await stream.result()
                except Cancelled:
                    return "cancelled"
            return "finished"
        case 3:
            try:
                await client.generate(prompt, timeout=rng.choice([0.01, 0.1]), **options)
            except DeadlineExceeded:
                return "late"
            except Overloaded as error:
                # It would still have waited when its time was up.
                if error.reason != "DEADLINE_UNREACHABLE":
                    raise
                return "late"
            return "finished"
        case 4:
            try:
                await client.generate(prompt, max_tokens=10_000)
            except InvalidRequest:
                return "refused"
            return "accepted"
        case 5:
            generation = await client.generate(prompt, **options)
        case _:
            async with client.stream(prompt, **options) as stream:
                generation = await stream.result()
    assert len(generation.choices) == options["num_choices"]
    for choice in generation.choices:
        assert 1 <= len(choice.token_ids) <= generation.started.max_tokens
        assert choice.logprobs is not None
        assert len(choice.logprobs.raw) == len(choice.token_ids)
    # The same request once more, alone or not, gives the same tokens.
    again = await client.generate(prompt, **options)
    assert [choice.token_ids for choice in again.choices] == [
        choice.token_ids for choice in generation.choices
    ]
    return "repeated"


def test_two_hundred_mixed_requests_leave_nothing_behind(tiny_model: Path) -> None:
    # On a slow machine the last of them wait for longer than a server lets anybody.
    with serving(tiny_model, "--max-queue-seconds", "600") as server:
        _ask_two_hundred(server)


def _ask_two_hundred(server: LiveServer) -> None:
    async def ask_all() -> list[str]:
        async with AsyncClient(server.address) as client:
            return await asyncio.gather(
                *(ask(client, number, random.Random(number)) for number in range(200))
            )

    outcomes = asyncio.run(ask_all())
    assert outcomes.count("refused") == 25
    assert outcomes.count("repeated") == 75
    assert outcomes.count("cancelled") >= 25
    assert eventually(lambda: is_idle(server))
    assert server.process.poll() is None
    assert "Traceback" not in server.errors()


def test_a_vanished_client_frees_its_request(server: LiveServer) -> None:
    async def vanish() -> None:
        client = AsyncClient(server.address)
        stream = client.stream(WORDS, max_tokens=400)
        async for _ in stream:
            break
        await client.close()

    asyncio.run(vanish())
    assert eventually(lambda: is_idle(server))
