"""requests of every kind, one after the other for long; memory may not grow."""

import asyncio
import math
import random
import time
from argparse import ArgumentParser, Namespace

from benchmarks.harness import Report
from benchmarks.soak_parts.crowd import crowd
from benchmarks.subject import subject
from bosal_client import AsyncClient, InvalidRequest, NotFound, Overloaded

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64, help="calls at once")
    parser.add_argument("--warm-up", type=float, default=0.2, help="share before memory is read")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop asking after")


def run(options: Namespace, report: Report) -> None:
    number = 400 if options.quick else options.requests
    done = round(report.figures.get("soak_requests", 0))
    with subject("--max-running=32", "--log-level=WARNING") as server:

        async def ask(first: int, count: int, until: float) -> int:
            async with AsyncClient(server.address) as client:

                async def one(index: int) -> str:
                    chance = random.Random(f"{options.seed} {first + index}")
                    return await request(client, chance)

                return (await crowd(count, options.width, one, until)).total()

        begin = time.monotonic()
        until = begin + options.seconds
        # A server that was told to stop early warms up in that share of its time.
        warm_until = begin + options.warm_up * options.seconds
        warm = asyncio.run(ask(done, int((number - done) * options.warm_up), warm_until))
        before = server.resident_mib()
        rest = asyncio.run(ask(done + warm, number - done - warm, until))
        seconds = time.monotonic() - begin
        leaked = server.leaked()
        after = server.resident_mib()
        server.check()
    report.add("soak_requests", warm + rest)
    report.add("soak_seconds", seconds)
    report.figure("soak_rss_warm_mib", before)
    # Of the server, of several, that grew most.
    worst = report.figures.get("soak_rss_growth", -math.inf)
    report.figure("soak_rss_growth", max(worst, after / before - 1))
    report.add("leaked_after_soak", leaked)
    report.write()
    assert not leaked, f"{leaked:g} choices, blocks and tasks are still held"


async def request(client: AsyncClient, chance: random.Random) -> str:
    """Ask for one thing; return what."""
    text = "".join(chance.choices("abcdefgh ?", k=chance.randint(1, 60)))
    size = chance.randint(1, 8)
    kind = chance.choice(
        ["whole", "stream", "choices", "logprobs", "inline", "schema", "regex", "score", "compare"]
        + ["tokenize", "validate", "list", "cancel", "wrong", "explain"]
    )
    try:
        match kind:
            case "whole":
                await client.generate(text, max_tokens=size)
            case "stream":
                async with client.stream(text, recipe="rules", max_tokens=size) as stream:
                    await stream.result()
            case "choices":
                await client.generate(text, max_tokens=size, num_choices=3)
            case "logprobs":
                await client.generate(text, max_tokens=size, logprobs=5)
            case "inline":
                rule = {"rule": "min_p", "p": chance.random()}
                await client.generate(text, max_tokens=size, recipe={"rules": [rule]})
            case "schema":
                await client.generate(text, max_tokens=32, constraint={"json_schema": SCHEMA})
            case "regex":
                pattern = f"[ab]{{{size}}}"
                await client.generate(text, max_tokens=32, constraint={"regex": pattern})
            case "score":
                await client.score(text, "abcdefgh"[:size])
            case "compare":
                async with client.compare(text, ["plain", "rules"], max_tokens=size) as comparison:
                    await comparison.result()
            case "tokenize":
                await client.tokenize(text)
            case "validate":
                await client.validate({"rules": [{"rule": "top_k", "k": size}]})
            case "list":
                await client.recipes()
            case "cancel":
                client.stream(text, max_tokens=100).cancel()
            case "wrong":
                await client.generate(text, recipe="nobody")
            case "explain":
                await client.generate(text, max_tokens=size, explain=True)
    except (InvalidRequest, NotFound, Overloaded) as error:
        return f"{kind} {error.reason}"
    return kind
