"""Tokens per second of the engine against transformers' `generate` and continuous batching."""

from collections.abc import Callable
from functools import partial
from itertools import count
from statistics import median
from time import perf_counter

import torch

from benchmarks import models, peers
from benchmarks.decoding import DecodeClock
from benchmarks.engines import Engine, load
from benchmarks.harness import Report, arguments, interleave, ratio, say, seconds

NEW_TOKENS = 64
# Decodes prompts, so many tokens each; returns how many came out.
Run = Callable[[list[list[int]], int], int]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--models", nargs="+", default=list(models.SHAPES), choices=models.SHAPES)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32], help="none: no peers")
    parser.add_argument("--runner", default="torch", choices=["torch", "openvino"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, …; not for openvino")
    options = parser.parse_args()
    if options.runner == "openvino" and options.device != "cpu":
        parser.error("OpenVINO runs on a CPU here")
    torch.set_num_threads(options.threads)
    report = Report("engine", options)
    new_tokens = 8 if options.quick else NEW_TOKENS
    for name in options.models:
        say(f"{name}: building the model")
        clock = DecodeClock()
        model = load(name, device=options.device)
        say(f"{name}: starting the engine; a device's kernels are compiled at its first start")
        begin = perf_counter()
        with Engine(model, runner=options.runner, observer=clock) as engine:
            say(f"{name}: the engine started in {perf_counter() - begin:.1f} s")
            overhead(report, engine, clock, new_tokens)
            report.write()
            if name == "500m":
                time_to_first_token(report, engine)
                report.write()
            if options.batches:
                peer = models.build(name).to(options.device)
                throughput(report, engine, peer, options.batches, new_tokens)
        report.write()
    report.finish()


def throughput(
    report: Report, engine: Engine, peer: torch.nn.Module, batches: list[int], new_tokens: int
) -> None:
    """Measure every batch size, end to end, prompts and answers."""
    seeds = count(1)
    cases = [(f"b{batch}_c128", batch, 128, 0) for batch in batches]
    if 32 in batches and engine.model.name == "15m":
        cases.append(("b32_prefix1k", 32, 1024 + 32, 1024))
    for case, batch, length, shared in cases:

        def rate(run: Run, batch: int = batch, length: int = length, shared: int = shared) -> float:
            # Fresh prompts each time: nobody profits from a cache of the round before.
            prompts = models.prompts(batch, length, shared_prefix=shared, seed=next(seeds))
            start = perf_counter()
            tokens = run(prompts, new_tokens)
            return tokens / (perf_counter() - start)

        label = f"{engine.model.name}_{case}{suffix(report)}"
        contestants: dict[str, Callable[[], float]] = {"engine": partial(rate, engine.run)}
        for contestant, run in (
            ("generate", partial(peers.generate, peer)),
            ("cb", partial(peers.continuous_batching, peer)),
        ):
            try:
                run(models.prompts(batch, length, seed=next(seeds)), 1)
            except Exception as error:  # what a peer cannot do is no fault of the others
                report.note(f"failed_{contestant}_{label}", f"{type(error).__name__}: {error}")
                say(f"{label}: {contestant} failed: {error}")
                continue
            contestants[contestant] = partial(rate, run)
        samples = interleave(contestants, report.options.rounds)
        for contestant, values in samples.items():
            report.detail(f"{contestant}_{label}_tokens_per_second", values)
        for contestant in samples.keys() - {"engine"}:
            report.figure(f"{contestant}_{label}", ratio(samples, "engine", contestant))
        report.write()
        shown = ", ".join(f"{key} {median(values):,.0f}" for key, values in samples.items())
        say(f"{label}: {shown} tokens/s")


def overhead(report: Report, engine: Engine, clock: DecodeClock, new_tokens: int) -> None:
    """Measure the share of a decode step at 32 rows that is not the forward pass."""
    seconds, shares = [], []
    for round_ in range(report.options.rounds + 1):
        clock.reset()
        engine.run(models.prompts(32, 128, seed=5000 + round_), new_tokens)
        if round_:
            step, share = clock.take()
            seconds.append(step)
            shares.append(share)
    label = f"{engine.model.name}_b32"
    report.detail(f"decode_{label}{suffix(report)}_seconds", seconds)
    say(f"{label}: a step of 32 rows takes {1000 * median(seconds):.2f} ms")
    if report.options.device != "cpu":
        # A device's forward pass is still under way when its launch returns.
        return
    # OpenVINO's steps are so short that it matters: the plain name is theirs.
    runner = report.options.runner
    report.figure(f"overhead_{label}{'' if runner == 'openvino' else '_torch'}", median(shares))


def suffix(report: Report) -> str:
    """Return what figures of this runner and device end with."""
    if report.options.device != "cpu":
        return "_cuda"
    return "_ov" if report.options.runner == "openvino" else ""


def time_to_first_token(report: Report, engine: Engine) -> None:
    """Measure a prompt over a 1k scaffold that is in the cache against one that is not."""
    seeds = count(1000)

    def first(scaffold: int) -> float:
        (prompt,) = models.prompts(1, 1024, seed=scaffold)
        (instruction,) = models.prompts(1, 32, seed=next(seeds))
        return seconds(lambda: engine.run([prompt + instruction], 1))

    first(1)
    samples = interleave(
        {"cold": lambda: first(next(seeds)), "warm": lambda: first(1)}, report.options.rounds
    )
    shown = ", ".join(f"{key} {1000 * median(values):.1f}" for key, values in samples.items())
    say(f"time to first token over 1k tokens: {shown} ms")
    report.detail("ttft_cold_1k_seconds", samples["cold"])
    report.detail("ttft_warm_1k_seconds", samples["warm"])
    report.figure(f"ttft_warm_over_cold_1k{suffix(report)}", ratio(samples, "warm", "cold"))


if __name__ == "__main__":
    main()
