"""Tokens per second through gRPC streams against the same engine in process."""

import asyncio
import contextlib
import os
import random
import string
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from benchmarks import models
from benchmarks.announcement import Announcement
from benchmarks.engines import GREEDY, Engine, load
from benchmarks.harness import Report, arguments, interleave, ratio
from bosal_client import AsyncClient

MODEL = "15m"
PROMPT_CHARACTERS = 256  # 128 tokens of the benchmark tokenizer
NEW_TOKENS = 64


@contextlib.contextmanager
def server(threads: int, runner: str) -> Iterator[str]:
    """Run a server on the benchmark model in a process of its own; yield its address."""
    with TemporaryDirectory() as folder:
        models.save(MODEL, folder)
        command = [sys.executable, "-m", "bosal_server", "serve", f"--model={MODEL}={folder}"]
        command += ["--dtype=auto", "--port=0", "--metrics-port=-1", "--database=temporary"]
        command += [f"--runner={runner}", f"--threads={threads}", "--lame-duck-seconds=0"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
            address = Announcement.read(child.stdout).address
            try:
                yield address
            finally:
                child.terminate()


def prompts(number: int, seed: int) -> list[str]:
    """Return random texts that nobody has in a cache."""
    generator = random.Random(seed)
    letters = string.ascii_letters
    return ["".join(generator.choices(letters, k=PROMPT_CHARACTERS)) for _ in range(number)]


async def stream_all(client: AsyncClient, texts: list[str], new_tokens: int) -> tuple[int, int]:
    """Stream every answer at once; return how many tokens and messages came."""

    async def one(text: str) -> tuple[int, int]:
        tokens = messages = 0
        async with client.stream(text, recipe=GREEDY, max_tokens=new_tokens) as stream:
            async for batch in stream:
                tokens += len(batch.token_ids)
                messages += 1
        return tokens, messages

    totals = await asyncio.gather(*map(one, texts))
    return sum(tokens for tokens, _ in totals), sum(messages for _, messages in totals)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--runner", default="openvino", choices=["torch", "openvino"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    report = Report("wire", options)
    new_tokens = 8 if options.quick else NEW_TOKENS
    seeds = count(1)
    with (
        server(options.threads, options.runner) as address,
        Engine(load(MODEL), runner=options.runner, max_groups=64) as engine,
        asyncio.Runner() as runner,
    ):
        runner.get_loop()
        client = AsyncClient(address)
        for number in options.streams:
            messages: list[float] = []

            def over_grpc(number: int = number, messages: list[float] = messages) -> float:
                texts = prompts(number, next(seeds))
                start = perf_counter()
                tokens, received = runner.run(stream_all(client, texts, new_tokens))
                messages.append(tokens / received)
                return tokens / (perf_counter() - start)

            def in_process(number: int = number) -> float:
                texts = prompts(number, next(seeds))
                start = perf_counter()
                encode = engine.model.vocabulary.encode
                tokens = engine.run([encode(text) for text in texts], new_tokens)
                return tokens / (perf_counter() - start)

            samples = interleave({"grpc": over_grpc, "engine": in_process}, options.rounds)
            for name, values in samples.items():
                report.detail(f"{name}_{number}_tokens_per_second", values)
            report.detail(f"tokens_per_message_{number}", messages)
            report.figure(f"grpc_over_engine_{number}", ratio(samples, "grpc", "engine"))
        runner.run(client.close())
    report.finish()


if __name__ == "__main__":
    main()
