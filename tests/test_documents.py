"""The project's pages: what they link to exists, and figures they quote are the recorded ones."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def pages() -> list[Path]:
    """Every Markdown page under version control, or below the root of a source archive."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return [ROOT / name for name in listed.stdout.split()]
    return [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


PAGES = pages()
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What GitHub lets one link to: a heading in small letters, spaces as hyphens."""
    heads = re.findall(r"^#+ +(.*?) *$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_there_are_pages() -> None:
    assert {"README.md", "docs/rules.md", "CONTRIBUTING.md"} <= set(NAMES)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^()\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_path_in_backquotes_is_there(page: Path) -> None:
    tops = "|".join(sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir()))
    for path in re.findall(rf"`((?:{tops})/[\w./-]+)`", prose(page)):
        # Made by whoever evaluates.
        if not path.startswith(("lab/.cache/", "dist/", "build/")):
            assert (ROOT / path).exists(), path


# Pages, what they say with the names of figures in it, and the record.
QUOTES = [
    ("docs/experiments.md", "an assignment {assign_us:.1f} µs", "experiments-cpu"),
    (
        "docs/experiments.md",
        "a report over 10 million outcomes {report_ms:.1f} ms",
        "experiments-cpu",
    ),
    (
        "docs/experiments.md",
        "Naming an experiment adds {latency_overhead:.1%} to a request",
        "experiments-latency-cpu",
    ),
    ("docs/experiments.md", "{aa_false_positives:.1%} call a difference", "experiments-cpu"),
    ("docs/experiments.md", "is found in {per_100[power]:.0f} of 100", "experiments-cpu"),
    (
        "docs/streams.md",
        "| `guidance` | {guidance_step_500m_b8:.2f} | transformers' own guidance: "
        "{transformers_guidance_500m_b8:.2f} of",
        "streams-cpu-avx512",
    ),
    (
        "docs/streams.md",
        "`guidance` | 1.25 / 1.5 / 2 | {per_100[guidance_1.25]:.0f} / {per_100[guidance_1.5]:.0f} "
        "/ {per_100[guidance_2]:.0f} %",
        "strengths-cpu",
    ),
    (
        "docs/streams.md",
        "extrapolation | 0.1 / 0.2 / 0.5 | {per_100[extrapolation_0.1]:.0f} / "
        "{per_100[extrapolation_0.2]:.0f} / {per_100[extrapolation_0.5]:.0f} %",
        "strengths-cpu",
    ),
    (
        "docs/streams.md",
        "steered + `nudging` by the small twin | below 0.3 / 0.5 | {per_100[nudging_0.3]:.0f} / "
        "{per_100[nudging_0.5]:.0f} %",
        "strengths-cpu",
    ),
    (
        "docs/streams.md",
        "`proxy_tuning` | 1 / 1.5 | {per_100[plain_proxy_1]:.0f} / "
        "{per_100[plain_proxy_1.5]:.0f} %",
        "strengths-cpu",
    ),
    (
        "docs/streams.md",
        "in steered's scaffold | below 0.4 | {per_100[plain_nudging_by_itself_0.4]:.0f} %",
        "strengths-cpu",
    ),
    ("docs/streams.md", "| {contrastive_step_500m_b8:.2f} |", "streams-cpu-avx512"),
    (
        "docs/streams.md",
        "| {proxy_step_500m_b8:.2f} | of which the small models' forward passes are "
        "{proxy_small_share_500m_b8:.2f}",
        "streams-cpu-avx512",
    ),
    (
        "docs/streams.md",
        "a plain step is {plain_step_over_forward_15m_b1:.2f}, "
        "{plain_step_over_forward_15m_b8:.2f} and {plain_step_over_forward_15m_b32:.2f} of",
        "streams-cpu-avx512",
    ),
]


@pytest.mark.parametrize(("page", "said", "record"), QUOTES)
def test_figures_are_quoted_as_recorded(page: str, said: str, record: str) -> None:
    found: dict[str, Any] = json.loads((ROOT / f"benchmarks/results/{record}.json").read_text())
    per_100 = {name: 100 * value for name, value in found["figures"].items()}
    # Pages have a space before the sign.
    wanted = re.sub(r"(\d)%", r"\1 %", said.format(**found["figures"], per_100=per_100))
    text = " ".join((ROOT / page).read_text("utf-8").split())
    assert wanted in text
