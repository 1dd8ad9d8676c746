"""`bosal top`: a server's load, live in a terminal, read from its /metrics."""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Annotated
from urllib.request import urlopen

import typer
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live
from rich.table import Table

Labels = frozenset[tuple[str, str]]
_TIMEOUT_SECONDS = 10.0
_MOST = 6


@dataclass(frozen=True, slots=True)
class Scrape:
    """Every sample of one moment."""

    at: float
    samples: Mapping[tuple[str, Labels], float]

    @classmethod
    def parse(cls, text: str, at: float) -> "Scrape":
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return cls(at, samples)

    def by(self, name: str, label: str) -> Counter[str]:
        """Sum a metric by one of its labels."""
        sums: Counter[str] = Counter()
        for (found, labels), value in self.samples.items():
            if found == f"bosal_{name}":
                sums[dict(labels).get(label, "")] += value  # type: ignore[assignment]
        return sums

    def total(self, name: str) -> float:
        return sum(self.by(name, "").values())


def frame(before: Scrape, now: Scrape) -> Table:
    """Draw what happened between two scrapes."""
    seconds = max(now.at - before.at, 1e-9)

    def rate(name: str) -> float:
        return (now.total(name) - before.total(name)) / seconds

    load = Table(title="load", title_justify="left", show_header=False)
    load.add_row("choices running", f"{now.total('running_groups'):.0f}")
    load.add_row("choices waiting", f"{now.total('waiting_groups'):.0f}")
    load.add_row("requests a second", f"{rate('request_seconds_count'):.1f}")
    load.add_row("tokens a second", f"{rate('generated_tokens_total'):.1f}")
    used, there = now.by("kv_blocks_used", "model"), now.by("kv_blocks", "model")
    for model, blocks in sorted(there.items()):
        load.add_row(f"blocks of {model}", _share(used[model], blocks))
    hits, queries = rate("prefix_cache_hits_total"), rate("prefix_cache_queries_total")
    load.add_row("prefix cache hits", _share(hits, queries))
    times = Table("", "p50", "p95", "p99", title="times, ms", title_justify="left")
    for title, name in (
        ("first token", "time_to_first_token_seconds"),
        ("between tokens", "inter_token_latency_seconds"),
        ("waiting", "request_queue_seconds"),
        ("event loop lag", "event_loop_lag_seconds"),
    ):
        edges = _difference(now, before, f"{name}_bucket", "le")
        cells = [_milliseconds(quantile(edges, share)) for share in (0.5, 0.95, 0.99)]
        times.add_row(title, *cells)
    served = _difference(now, before, "generated_tokens_total", "recipe")
    failed = _difference(now, before, "errors_total", "code")
    refused = _difference(now, before, "refusals_total", "reason")
    # The same calls, by their reason.
    failed["RESOURCE_EXHAUSTED"] = max(failed["RESOURCE_EXHAUSTED"] - refused.total(), 0)
    failed.update(refused)
    # Side by side, so that a frame fits a terminal of 80 by 24: what is below its end is not shown.
    whole = Table.grid(padding=(0, 1))
    whole.add_row(load, times)
    whole.add_row(
        _rates("recipe", "tokens a second", served, seconds),
        _rates("error or refusal", "a second", failed, seconds),
    )
    return whole


def _rates(what: str, rate: str, counts: Counter[str], seconds: float) -> Table:
    """Draw what there was most of in an interval, and the rest in one line."""
    found = [(name, count) for name, count in counts.most_common() if count]
    if len(found) > _MOST:
        rest = sum(count for _, count in found[_MOST - 1 :])
        found = [*found[: _MOST - 1], ("all others", rest)]
    drawn = Table(what, rate)
    for name, count in found or [("none", 0)]:
        drawn.add_row(name, f"{count / seconds:.1f}")
    return drawn


def quantile(edges: Mapping[str, float], share: float) -> float:
    """Interpolate within a histogram's bucket, as Prometheus does; NaN of nothing."""
    counts = sorted((float(edge), count) for edge, count in edges.items())
    if not counts or not counts[-1][1]:
        return math.nan
    target = share * counts[-1][1]
    low = below = 0.0
    for edge, cumulated in counts:
        if cumulated >= target:
            if math.isinf(edge):
                break
            return low + (edge - low) * (target - below) / max(cumulated - below, 1e-9)
        low, below = edge, cumulated
    return low


def _difference(now: Scrape, before: Scrape, name: str, label: str) -> Counter[str]:
    found = now.by(name, label)
    found.subtract(before.by(name, label))
    return found


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _milliseconds(seconds: float) -> str:
    return "-" if math.isnan(seconds) else f"{seconds * 1000:.1f}"


def top(
    url: Annotated[
        str,
        typer.Option(
            "--metrics",
            metavar="URL",
            help="Where the server exports its metrics, as it says when it is ready; HOST:PORT "
            "will do.",
        ),
    ] = "http://127.0.0.1:9464/metrics",
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show one interval, and end.")] = False,
) -> None:
    """Show a server's load, latencies and errors until Ctrl-C.

    Rates and latencies are of the time between two looks; `blocks` are the key-value blocks that
    running choices hold, of those there are.

    [bold]Examples[/bold]

      bosal top\n
      bosal top --metrics 10.0.0.7:9464 --once
    """
    console = Console()
    try:
        before = _scrape(url)
        if once:
            time.sleep(interval)
            console.print(frame(before, _scrape(url)))
            return
        with Live(console=console, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                now = _scrape(url)
                live.update(frame(before, now), refresh=True)
                before = now
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _scrape(url: str) -> Scrape:
    # Values that are wrong: an address that is none, a page that is no metrics.
    try:
        with urlopen(
            url if "://" in url else f"http://{url}", timeout=_TIMEOUT_SECONDS
        ) as response:
            return Scrape.parse(response.read().decode(), time.monotonic())
    except (OSError, HTTPException, ValueError) as error:
        cause = getattr(error, "reason", "") or error
        cause = getattr(cause, "strerror", "") or cause
        typer.echo(f"error: {url}: {cause or type(error).__name__}", err=True)
        raise typer.Exit(69) from None
