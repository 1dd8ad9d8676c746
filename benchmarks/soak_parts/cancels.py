"""cancels at random phases of a request; nothing may be held afterwards."""

import asyncio
import random
from argparse import ArgumentParser, Namespace

from benchmarks.harness import Report
from benchmarks.soak_parts.crowd import crowd
from benchmarks.subject import endless, subject
from bosal_client import AsyncClient, BosalError


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--cancels", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=96, help="calls at once")


def run(options: Namespace, report: Report) -> None:
    """Cancel by the call, by a deadline and by leaving, from the first byte to the last token."""
    number = 200 if options.quick else options.cancels
    with subject("--max-running=32") as server:

        async def storm() -> dict[str, int]:
            async with AsyncClient(server.address) as client:

                async def one(index: int) -> str:
                    chance = random.Random(f"{options.seed} {index}")
                    return await _cancel(client, chance)

                return await crowd(number, options.width, one)

        outcomes = asyncio.run(storm())
        leaked = server.leaked()
        server.check()
    report.figure("cancels", sum(outcomes.values()))
    for outcome, count in sorted(outcomes.items()):
        report.figure(f"cancels_{outcome}", count)
    report.figure("leaked_after_cancels", leaked)
    assert not leaked, f"{leaked:g} choices, blocks and tasks are still held"


async def _cancel(client: AsyncClient, chance: random.Random) -> str:
    prompt = "".join(chance.choices("abcdefgh ", k=chance.randint(1, 200)))
    many = chance.choice([1, 1, 1, 3])
    phase = chance.choice(["at_once", "soon", "token", "deadline", "leave"])
    try:
        if phase == "deadline":
            timeout = chance.uniform(0.001, 0.3)
            await client.generate(
                prompt, max_tokens=200, num_choices=many, overrides=endless(), timeout=timeout
            )
            return "finished"
        stream = client.stream(prompt, max_tokens=200, num_choices=many, overrides=endless())
        if phase == "soon":
            await asyncio.sleep(chance.uniform(0, 0.05))
        elif phase in ("token", "leave"):
            left = chance.randint(1, 20)
            async for _ in stream:
                left -= 1
                if not left:
                    break
        stream.cancel()
        if phase != "leave":
            await stream.result()
            return "finished"
    except BosalError as error:
        return type(error).__name__.lower()
    return phase
