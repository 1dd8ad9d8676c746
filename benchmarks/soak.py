"""Wears a server out and checks what it promised; figures are counts of what went wrong.

python -m benchmarks.soak --json FILE PART [options of the part]

What takes long can be done in parts: `--seconds` ends a run early, and `--continue` goes on where
FILE says that the last one ended.
"""

import json
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
    parser.add_argument(
        "--continue", action="store_true", dest="goes_on", help="add to what FILE holds"
    )
    commands = parser.add_subparsers(required=True, dest="part", metavar="PART")
    for name, part in PARTS.items():
        part.add_options(commands.add_parser(name, help=part.__doc__))
    options = parser.parse_args()
    report = Report(f"soak {options.part}", options)
    if options.goes_on and options.json is None:
        parser.error("--continue needs --json")
    if options.goes_on and options.json.is_file():
        report.figures = json.loads(options.json.read_text())["figures"]
    PARTS[options.part].run(options, report)
    report.finish()


if __name__ == "__main__":
    main()
