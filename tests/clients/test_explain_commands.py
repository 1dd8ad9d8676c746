"""`bosal explain`, `compare` and `score` as a user runs them."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.clients.command import bosal
from tests.live_server import LiveServer

from bosal_client.spelled import quoted, texts

RULES = ("--set", 'token_weights.weights={"a": 5, " the": 4}', "--set", "temperature.value=0.7")
ASKED = ("Hello there", "--seed=3", "--max-tokens=24", *RULES)


def test_explain_prints_a_line_per_token_with_the_rule_that_acted(server: LiveServer) -> None:
    shown = bosal(server, "explain", *ASKED)
    record = json.loads(bosal(server, "explain", *ASKED, "--json").stdout)
    assert shown.returncode == 0
    assert shown.stderr == ""
    choice = record["choices"][0]
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert len(lines) == len(choice["token_ids"]) == 24
    changed = 0
    columns = zip(lines, choice["token_ids"], choice["explanations"], strict=True)
    for place, (line, token, one) in enumerate(columns):
        position, _, uncontrolled, rule, shift, rank, raw, _, forbidden = line
        assert forbidden == ""
        assert int(position) == place
        assert (shift, int(rank)) == (one["shift"], one["raw_rank"])
        assert 0 < float(raw) <= 1
        is_changed = token != one["uncontrolled_token"]
        assert bool(uncontrolled) == bool(rule) == is_changed
        flips = [effect["rule"] for effect in one["rules"] if effect["flips"]]
        if is_changed and flips:
            assert rule == ", ".join(flips)
        changed += is_changed
    assert changed == choice["explanation"]["changed_tokens"] > 0


def test_explain_emits_valid_json_where_a_rule_masks(server: LiveServer) -> None:
    masked = ("--set", "no_repeat_ngram.n=2", "--set", "min_tokens.value=20")
    shown = bosal(server, "explain", *ASKED, *masked, "--json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(shown.stdout, parse_constant=refuse)
    assert record["choices"][0]["explanations"]


def test_explain_says_what_a_constraint_forbids_and_forces(
    server: LiveServer, tmp_path: Path
) -> None:
    held = ("--regex", "The capital of France is (Paris|here)\\.", "--max-tokens=60", "--seed=3")
    shown = bosal(server, "explain", "Say it.", *held)
    record = json.loads(bosal(server, "explain", "Say it.", *held, "--json").stdout)
    choice = record["choices"][0]
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert len(lines) == len(choice["token_ids"])
    for place, (line, one) in enumerate(zip(lines, choice["explanations"], strict=True)):
        assert line[4].endswith("forced") == (place in choice["forced_positions"])
        assert float(line[8]) == pytest.approx(one["forbidden_mass"], rel=0.01)
        assert 0 < one["forbidden_mass"] <= 1
        if line[4].endswith("forced"):
            # Only the token itself was legal.
            assert one["forbidden_mass"] == pytest.approx(
                1 - math.exp(one["raw_logprob"]), abs=1e-4
            )
    masses = [one["forbidden_mass"] for one in choice["explanations"]]
    assert choice["explanation"]["mean_forbidden_mass"] == pytest.approx(
        sum(masses) / len(masses), abs=1e-5
    )
    file = tmp_path / "page.html"
    assert bosal(server, "explain", "Say it.", *held, "--html", str(file)).returncode == 0
    page = Page(file.read_text())
    assert sum("dictated" in one.split() for one in page.classes) == len(choice["forced_positions"])
    assert "the constraint forbids" in file.read_text()


class Page(HTMLParser):
    """What a page asks for, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.classes: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.outside += [values[name] or "" for name in ("src", "href") if name in values]
        if tag in ("script", "iframe", "img"):
            self.outside.append(tag)
        self.classes += (values.get("class") or "").split()
        if tag not in ("meta", "br", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else_and_escapes_what_the_model_says(
    server: LiveServer, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    options = ("--seed=3", "--max-tokens=24", *RULES, f"--html={path}")
    shown = bosal(server, "explain", "<b>Hello</b> & <script>", *options)
    assert (shown.returncode, shown.stdout) == (0, "")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.outside == []
    assert page.open == []
    assert page.classes.count("t") == 24
    assert "changed" in page.classes
    assert "&lt;script&gt;" in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_a_file_may_be_the_recipe(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("rules: [{rule: temperature, value: 0}]\n")
    asked = ("explain", "Hello", "--max-tokens=4", f"--recipe={file}")
    explained = bosal(server, *asked, "--json")
    assert json.loads(explained.stdout)["started"]["recipe"]["rules"] == [
        {"rule": "temperature", "value": 0}
    ]
    assert bosal(server, "score", "Hello", "the dog", f"--recipe={file}").returncode == 0
    file.write_text("rules: [{rule: temperature, value: -1}]\n")
    assert "rules[0].value" in bosal(server, "score", "Hello", "the", f"--recipe={file}").stderr


def test_a_page_that_cannot_be_written_is_one_line(server: LiveServer, tmp_path: Path) -> None:
    shown = bosal(server, "explain", *ASKED, f"--html={tmp_path}/missing/page.html")
    assert shown.returncode == 2
    assert "cannot write" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_compare_says_where_recipes_part_and_by_what(server: LiveServer) -> None:
    asked = ("Hello there", "--seed=3", "--max-tokens=12")
    shown = bosal(server, "compare", *asked, "-r", "plain", "-r", "rules", "-r", "plain")
    assert shown.returncode == 0
    assert shown.stderr == ""
    heads = [line for line in shown.stdout.splitlines() if line.startswith("--- ")]
    assert heads[0] == "--- plain (max_tokens)"
    assert re.fullmatch(
        r"--- rules \(\w+\): from token \d+ on, .+ for .+, by another prompt", heads[1]
    )
    assert heads[2] == "--- plain (max_tokens): the same"
    record = json.loads(
        bosal(server, "compare", *asked, "-r", "plain", "-r", "rules", "--json").stdout
    )
    assert record["divergences"][0]["cause"] == "prompt"
    assert len(record["generations"]) == 2


def test_compare_takes_a_file_of_a_recipe(server: LiveServer, tmp_path: Path) -> None:
    file = tmp_path / "narrow.yaml"
    file.write_text("name: narrow\nscaffold: {kind: raw}\nrules: [{rule: top_k, k: 1}]\n")
    shown = bosal(server, "compare", "Hello", "-r", "plain", "-r", str(file), "--max-tokens=4")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert len([line for line in shown.stdout.splitlines() if line.startswith("--- ")]) == 2


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        (("plain",), "at least two recipes"),
        (("plain", "stered"), "steered"),
        (("plain",) * 9, "from 2 to 8"),
    ],
)
def test_compare_refuses_by_name(
    recipes: tuple[str, ...], message: str, server: LiveServer
) -> None:
    options = [option for name in recipes for option in ("-r", name)]
    shown = bosal(server, "compare", "Hello", *options)
    assert shown.returncode == 2
    assert message in " ".join(shown.stderr.split())
    assert "Traceback" not in shown.stderr


def test_score_prints_each_token_and_the_sums(server: LiveServer) -> None:
    asked = ("Hello", "the dog ran", "--recipe=plain")
    shown = bosal(server, "score", *asked)
    record = json.loads(bosal(server, "score", *asked, "--json").stdout)
    assert shown.returncode == 0
    *lines, total = (line.split("\t") for line in shown.stdout.splitlines())
    assert len(lines) == len(record["token_ids"])
    assert sum(float(line[1]) for line in lines) == pytest.approx(float(total[1]), abs=1e-3)
    assert float(total[3]) == pytest.approx(record["controlled_logprob"], abs=1e-3)
    refused = bosal(server, "score", "Hello", "the dog", "--recipe=plian")
    assert refused.returncode == 2
    assert "plain" in refused.stderr


def test_score_says_what_a_constraint_forbids(server: LiveServer) -> None:
    choices = ("--recipe", "plain", "--choice", "yes", "--choice", "nobody")
    for answer, said in (
        ("yes", "the constraint holds"),
        ("no", "the constraint wants more"),
        ("maybe", "the constraint forbids the token at 0"),
    ):
        shown = bosal(server, "score", "Is it?", answer, *choices)
        assert shown.returncode == 0
        assert shown.stdout.splitlines()[-1] == said
    wrong = bosal(server, "score", "Is it?", "yes", "--choice", "a", "--regex", "b")
    assert wrong.returncode == 2
    assert "--choice" in wrong.stderr


def test_a_character_in_pieces_is_shown_with_its_last_token() -> None:
    face = "🙂".encode()
    assert texts([b"a", face[:2], face[2:], b""]) == ["a", "", "🙂", ""]
    assert texts([face[:2]]) == ["�"]
    assert quoted(b"") == "<end>"
    assert quoted(b' a\n"\x1b[31m') == '" a\\n"\\x1b[31m"'
