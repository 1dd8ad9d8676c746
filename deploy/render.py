"""Draws the dashboard's panels from a Prometheus, for pages and for those without a Grafana.

python deploy/render.py http://127.0.0.1:9090 dashboard.png --minutes 10
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

_COLUMNS = 3
_POINTS = 120


def series(url: str, expression: str, minutes: float) -> list[Any]:
    """Return what a query had over the last minutes."""
    end = time.time()
    begin, step = end - minutes * 60, max(1.0, minutes * 60 / _POINTS)
    window = f"{max(10, round(4 * step))}s"
    question = {
        "query": expression.replace("$__rate_interval", window),
        "start": f"{begin:.3f}",
        "end": f"{end:.3f}",
        "step": f"{step:.3f}",
    }
    with urlopen(f"{url}/api/v1/query_range?{urlencode(question)}") as response:
        return list(json.load(response)["data"]["result"])


def draw(url: str, board: dict[str, Any], minutes: float, out: Path) -> None:
    panels = board["panels"]
    rows = math.ceil(len(panels) / _COLUMNS)
    figure, axes = plt.subplots(rows, _COLUMNS, figsize=(6 * _COLUMNS, 3 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.set_title(panel["title"], fontsize=10)
        for target in panel["targets"]:
            for one in series(url, target["expr"], minutes):
                points = [(float(at), float(value)) for at, value in one["values"]]
                label = target.get("legendFormat") or ""
                for name, value in one["metric"].items():
                    label = label.replace("{{" + name + "}}", value)
                end = points[-1][0]
                axis.plot([at - end for at, _ in points], [v for _, v in points], label=label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if axis.get_lines():
            axis.set_xlabel("seconds ago", fontsize=8)
            axis.legend(fontsize=7, loc="upper left")
        else:
            axis.text(0.5, 0.5, "nothing happened", ha="center", transform=axis.transAxes)
    figure.tight_layout()
    figure.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    board = json.loads((Path(__file__).parent / "grafana.json").read_text())
    draw(options.url, board, options.minutes, options.out)


if __name__ == "__main__":
    main()
