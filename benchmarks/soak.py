"""Wears a server out and checks what it promised; figures are counts of what went wrong.

python -m benchmarks.soak --json FILE PART [options of the part]
"""

from argparse import ArgumentParser, Namespace
from typing import Final, Protocol

from benchmarks.harness import Report, arguments
from benchmarks.soak_parts import cancels, chaos, fuzz, kills, overload, requests, server_kills


class Part(Protocol):
    """One way to wear a server out: a module of `soak_parts`."""

    __doc__: str | None

    def add_options(self, parser: ArgumentParser) -> None:
        """Add what only this part takes."""

    def run(self, options: Namespace, report: Report) -> None:
        """Wear out, check, and record; whatever is broken raises."""


PARTS: Final[dict[str, Part]] = {
    "cancels": cancels,
    "chaos": chaos,
    "fuzz": fuzz,
    "kills": kills,
    "overload": overload,
    "requests": requests,
    "server-kills": server_kills,
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seed", type=int, default=1)
    commands = parser.add_subparsers(required=True, dest="part", metavar="PART")
    for name, part in PARTS.items():
        part.add_options(commands.add_parser(name, help=part.__doc__))
    options = parser.parse_args()
    report = Report(f"soak {options.part}", options)
    PARTS[options.part].run(options, report)
    report.finish()


if __name__ == "__main__":
    main()
