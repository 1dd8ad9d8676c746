"""The page: whole, readable without a network, and safe against what models write."""

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.lab import records

from bosal_lab.floors import store_floors
from bosal_lab.misses import misses
from bosal_lab.page import page

_VOID = {"meta", "br", "link", "img"}


class Outline(HTMLParser):
    """Checks that every tag is closed, and gathers tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(text: str) -> Outline:
    found = Outline()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    answers = {
        "base/plain": [["<script>alert(1)</script> & no…"]] * 10 + [["!"]] * 2,
        "base/steered": [["yes"]] * 8 + [["no <b>way"]] * 4,
        "tuned/plain": [["yes"]] * 12,
    }
    of = records.suite(12, num_categories=3)
    path = tmp_path_factory.mktemp("page") / "r.sqlite"
    with records.results(path, of, answers) as results:
        results.start_run("bosal eval run --suite 'made-up'", {"version": "1.2.3"})
        store_floors(results, of)
        return page(results)


def test_the_page_is_well_formed_and_asks_nobody(text: str) -> None:
    found = outline(text)
    assert "script" not in found.tags
    outside = [
        value
        for name, value in found.attributes
        if name in ("src", "href", "xlink:href") and not (value or "").startswith("#")
    ]
    assert outside == []
    assert "url(http" not in text
    assert "@import" not in text


def test_what_models_write_is_shown_and_never_run(text: str) -> None:
    assert "<script>alert(1)</script> & no…" in outline(text).text
    assert "<script" not in text
    assert "Is 3 <b>even</b>?" in outline(text).text


def test_the_page_holds_plots_that_are_valid_svg(text: str) -> None:
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 4
    for plot in plots:
        words = "".join(ElementTree.fromstring(plot).itertext())
        assert "base/steered" in words or "c0" in words


def test_what_plots_refer_to_is_there_once(text: str) -> None:
    referred = set(re.findall(r'(?:url\(|href=")#([^)"]+)', text))
    defined = re.findall(r' id="([^"]+)"', text)
    assert referred
    assert {defined.count(one) for one in referred} == {1}


def test_the_page_says_where_it_is_from(text: str) -> None:
    words = outline(text).text
    for wanted in ("bosal eval run --suite 'made-up'", "1.2.3", "d1", "v1", "suite version"):
        assert wanted in words


def test_the_page_compares_and_shows_disagreements(text: str) -> None:
    words = outline(text).text
    assert "Compared with base/plain" in words
    assert "tokens differ from position 0" in words
    assert "Typical misses of base/plain" in words
    assert "InvalidRequest: too long" in words


def test_the_same_results_make_the_same_page(tmp_path: Path) -> None:
    of = records.suite(4)
    answers = {"base/plain": [["yes"], ["no"]] * 2, "base/steered": [["yes"]] * 4}
    with records.results(tmp_path / "r.sqlite", of, answers) as results:
        assert page(results) == page(results)


def test_a_database_without_answers_makes_a_page(tmp_path: Path) -> None:
    with records.results(tmp_path / "r.sqlite", records.suite(2), {}) as results:
        assert "made-up" in outline(page(results)).text


def test_the_commonest_misses_come_first_and_kinds_take_turns(tmp_path: Path) -> None:
    # c0 fails in content five times, c1 in content once and by being cut twice.
    answers = {
        "base/plain": [
            ["no"], ["no"], ["no"], ["yes…"], ["no"], ["yes…"], ["no"], ["yes"], ["no"],
        ]
    }  # fmt: skip
    with records.results(tmp_path / "r.sqlite", records.suite(9), answers) as results:
        found = misses(results, "base/plain", limit=4)
    kinds = [(one.item.category, one.failed, one.alike) for one in found]
    assert kinds == [
        ("c0", ("right",), 5),
        ("c1", ("stopped",), 2),
        ("c1", ("right",), 1),
        ("c0", ("right",), 5),
    ]
