"""What every benchmark shares: interleaved rounds, medians, and one JSON format."""

import json
import os
import platform
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

PACKAGES: tuple[str, ...] = ("bosal", "torch", "transformers", "grpcio")
# Which exists on Linux only.
if sys.platform == "linux":
    PACKAGES = (*PACKAGES, "triton")


def arguments(description: str) -> ArgumentParser:
    """Return a parser with the options every benchmark takes."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and context")
    parser.add_argument("--quick", action="store_true", help="a smoke run: figures mean nothing")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    return parser


def say(text: str) -> None:
    """Tell at once how far a run has come."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def seconds(call: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleave(
    contestants: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Run every contestant once a round, in turn, after one round that does not count.

    Neighbouring runs share the machine's mood, so ratios within a round are comparable.
    """
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for round_ in range(rounds + 1):
        for name, run in contestants.items():
            value = run()
            if round_:
                samples[name].append(value)
    return samples


def ratio(samples: Mapping[str, list[float]], over: str, under: str) -> float:
    """Return the median over rounds of `over` divided by `under`."""
    pairs = zip(samples[over], samples[under], strict=True)
    return statistics.median(a / b for a, b in pairs)


@dataclass(slots=True)
class Report:
    """Figures by name and the context they were measured in."""

    name: str
    options: Namespace
    figures: dict[str, float] = field(default_factory=dict)
    details: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def figure(self, name: str, value: float) -> None:
        """Record a headline figure."""
        self.figures[name] = round(value, 4)

    def add(self, name: str, value: float) -> None:
        """Add to a headline figure that earlier runs may have begun."""
        self.figure(name, self.figures.get(name, 0) + value)

    def detail(self, name: str, samples: list[float]) -> None:
        """Record the median of one contestant's samples."""
        self.details[name] = round(statistics.median(samples), 6)

    def note(self, name: str, text: str) -> None:
        """Record what else decides the figures, such as a peer's version."""
        self.notes[name] = text

    def finish(self) -> None:
        """Print the report and write it where `--json` says."""
        console = Console()
        for title, rows in (("figures", self.figures), ("medians", self.details)):
            table = Table(title=f"{self.name}: {title}", title_justify="left")
            table.add_column("name")
            table.add_column("value", justify="right")
            for key, value in rows.items():
                table.add_row(key, f"{value:,.4g}")
            console.print(table)
        self.write()

    def write(self) -> None:
        """Write what there is so far where `--json` says."""
        if self.options.json:
            document = {
                "figures": self.figures,
                "details": self.details,
                "context": context(self.options) | self.notes,
            }
            self.options.json.parent.mkdir(parents=True, exist_ok=True)
            self.options.json.write_text(json.dumps(document, indent=2) + "\n")


def context(options: Namespace) -> dict[str, object]:
    """Return command, machine and versions."""

    module = getattr(sys.modules["__main__"].__spec__, "name", "benchmarks")
    module = module.removesuffix(".__main__")
    return {
        "command": " ".join(["python -m", module, *map(_without_folder, sys.argv[1:])]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "quick": options.quick,
        "rounds": options.rounds,
        "threads": options.threads,
        "processor": processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str:
    """Return a package's version; one may also run from its sources."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _without_folder(argument: str) -> str:
    """Shorten an absolute path to its last part: where things lie here concerns nobody else."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def processor() -> str:
    """Return the processor's name and the matrix instructions that decide speed."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    lines = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(fields.get("flags", "").split())
    features = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags]
    return f"{fields.get('model name', 'unknown')} ({', '.join(features[:2])})"
