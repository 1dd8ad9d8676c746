"""What guarding and watching a server costs, and how it bears too many calls.

python -m benchmarks.operations --parts PART [--model 15m --runner auto]
"""

import asyncio
import re
import tempfile
import time
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from threading import Event, Thread
from urllib.request import urlopen

from prometheus_client import generate_latest

from benchmarks.harness import Report, arguments, interleave, ratio, seconds
from benchmarks.neighbour import neighbour
from benchmarks.refusal_cost import refusal_cost
from benchmarks.soak_parts import overload
from benchmarks.subject import Subject, add_subject_options, endless, subject
from bosal_client import AsyncClient
from bosal_server.metrics import Metrics
from bosal_server.security.caller import Scope
from bosal_server.security.keys import make_key, save_keys

STREAMS = 64
# Of each storm; the calm before it takes three fifths of that.
STORM_SECONDS = 5.0
RECIPES, VARIANTS = 50, 20
_LAG = re.compile(rb'^bosal_event_loop_lag_seconds_bucket\{le="([^"]+)"\} (\S+)', re.MULTILINE)


def stream_all(
    runner: asyncio.Runner, client: AsyncClient, model: str, tokens: int, seed: int
) -> float:
    """Stream 64 answers at once; return tokens a second."""
    overrides = endless(model)

    async def one(number: int) -> int:
        text = f"{seed} {number}"
        async with client.stream(
            text, recipe="plain", max_tokens=tokens, overrides=overrides
        ) as stream:
            return sum([len(batch.token_ids) async for batch in stream])

    async def every() -> int:
        return sum(await asyncio.gather(*map(one, range(STREAMS))))

    begin = time.perf_counter()
    made = runner.run(every())
    return made / (time.perf_counter() - begin)


def guard_overhead(report: Report, tokens: int) -> None:
    """Compare a server with keys, quotas, limits and scraped metrics to one without."""
    model, engine = report.options.model, report.options.runner
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        key, entry = make_key("benchmark", [Scope.GENERATE], tokens_per_minute=1 << 40)
        save_keys(folder / "keys.json", [entry])
        key_file = f"--key-file={folder / 'keys.json'}"
        guarded = stack.enter_context(subject(key_file, model=model, runner=engine))
        bare = stack.enter_context(
            subject(module="benchmarks.bare_server", model=model, runner=engine)
        )
        runner = stack.enter_context(asyncio.Runner())
        runner.get_loop()
        seeds = count()
        with_key = AsyncClient(guarded.address, api_key=key)
        without = AsyncClient(bare.address)
        stop = Event()
        scraper = Thread(target=_scrape_each_second, args=(guarded, stop))
        scraper.start()
        samples = interleave(
            {
                "guarded": lambda: stream_all(runner, with_key, model, tokens, next(seeds)),
                "bare": lambda: stream_all(runner, without, model, tokens, next(seeds)),
            },
            report.options.rounds,
        )
        stop.set()
        scraper.join()
        runner.run(with_key.close())
        runner.run(without.close())
    for name, values in samples.items():
        report.detail(f"wire_tokens_per_s_{name}", values)
    report.figure("guard_overhead", 1 - ratio(samples, "guarded", "bare"))


def _scrape_each_second(server: Subject, stop: Event) -> None:
    while not stop.wait(1.0):
        with urlopen(server.metrics_url) as response:
            response.read()


def scrape_ms(report: Report) -> None:
    """Time a scrape of fifty recipes and an experiment of twenty variants, all of them used."""
    metrics = Metrics()
    labels = [("base", f"recipe-{number}", "") for number in range(RECIPES)]
    labels += [("base", f"recipe-{number}", f"trial/v{number}") for number in range(VARIANTS)]
    for one in labels:
        bound = metrics.bind(*one)
        for reason in ("MAX_TOKENS", "STOP_TOKEN"):
            bound.count_ended(reason)
        bound.count_forwards("base", 1)
    times = [seconds(lambda: generate_latest(metrics.registry)) for _ in range(30)]
    report.detail("scrape_seconds", times)
    report.figure("scrape_ms", report.details["scrape_seconds"] * 1000)
    report.figure("scrape_lines", generate_latest(metrics.registry).count(b"\n"))


def loop_lag(report: Report, tokens: int) -> None:
    """Measure the event loop's lateness under 64 streams and a scrape a second."""
    model, engine = report.options.model, report.options.runner
    with subject(model=model, runner=engine) as server, asyncio.Runner() as runner:
        runner.get_loop()
        client = AsyncClient(server.address)
        stream_all(runner, client, model, tokens, -1)
        before = _lags(server)
        stop = Event()
        scraper = Thread(target=_scrape_each_second, args=(server, stop))
        scraper.start()
        for seed in range(report.options.rounds):
            stream_all(runner, client, model, tokens, seed)
        stop.set()
        scraper.join()
        runner.run(client.close())
        after = _lags(server)
    counts = {edge: after[edge] - before[edge] for edge in after}
    report.figure("loop_lag_samples", counts[float("inf")])
    report.figure("loop_lag_p99_ms", histogram_quantile(counts, 0.99) * 1000)


def _lags(server: Subject) -> dict[float, float]:
    with urlopen(server.metrics_url) as response:
        found = _LAG.findall(response.read())
    return {float(edge): float(value) for edge, value in found}


def histogram_quantile(counts: dict[float, float], share: float) -> float:
    """Interpolate within the bucket, as Prometheus does."""
    target = share * counts[float("inf")]
    low, below = 0.0, 0.0
    for edge, cumulated in sorted(counts.items()):
        if cumulated >= target:
            if edge == float("inf"):
                return low
            return low + (edge - low) * (target - below) / max(cumulated - below, 1e-9)
        low, below = edge, cumulated
    return low


def overload_goodput(report: Report, seconds: float) -> None:
    """Offer ten times what the server can serve."""
    model, engine = report.options.model, report.options.runner
    with subject(*overload.OPTIONS, model=model, runner=engine) as server:
        outcome = overload.measure(server, model, seconds, report.options.rounds)
        server.check()
    outcome.tell(report)


def main() -> None:
    parser = arguments(__doc__ or "")
    add_subject_options(parser)
    parts = ["guards", "scrape", "lag", "refusals", "neighbour", "overload"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    options = parser.parse_args()
    report = Report("operations", options)
    report.note("served", f"{options.model} on {options.runner}")
    tokens = 16 if options.quick else 128
    storm = 0.8 if options.quick else STORM_SECONDS
    if "scrape" in options.parts:
        scrape_ms(report)
    if "guards" in options.parts:
        guard_overhead(report, tokens)
    if "lag" in options.parts:
        loop_lag(report, tokens)
    if "refusals" in options.parts:
        refusal_cost(report)
    if "neighbour" in options.parts:
        neighbour(report, options.model, options.runner, storm)
    if "overload" in options.parts:
        overload_goodput(report, storm * options.rounds)
    report.finish()


if __name__ == "__main__":
    main()
