"""IFEval's adapter on a package laid out as lm-eval's is, which tries to download when imported."""

import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from bosal_lab.evaluation_errors import ArmError, PromptError
from bosal_lab.ifeval import read_ifeval
from bosal_lab.item import Answer, Score
from bosal_lab.suites import load_suite

_PACKAGE = {
    "nltk.py": """
import types

def _find(name):
    raise LookupError(f"{name} is not on this machine")

def download(name):
    raise AssertionError(f"{name} was asked for over the network")

data = types.SimpleNamespace(find=_find)
""",
    "langdetect.py": """
class DetectorFactory:
    seed = None
""",
    "lm_eval/__init__.py": "",
    "lm_eval/tasks/__init__.py": "",
    "lm_eval/tasks/ifeval/utils.py": """
import dataclasses
import random

import langdetect
import nltk

try:
    nltk.data.find("tokenizers/punkt_tab")
except LookupError:
    nltk.download("punkt_tab")
    print("Downloaded punkt_tab")


@dataclasses.dataclass
class InputExample:
    key: int
    instruction_id_list: list
    prompt: str
    kwargs: list


@dataclasses.dataclass
class OutputExample:
    follow_instruction_list: list


def _follows(kind, kwargs, prompt, response):
    if kind == "punctuation:no_comma":
        return "," not in response
    if kind == "keywords:existence":
        return all(word in response for word in kwargs["keywords"])
    if kind == "combination:repeat_prompt":
        return response.startswith(prompt)
    if kind == "length_constraints:number_sentences":
        return nltk.data.find("tokenizers/punkt_tab") is not None
    if kind == "language:response_language":
        return langdetect.DetectorFactory.seed == 0
    if kind == "keywords:letter_frequency":
        return random.random() < 0.5
    raise KeyError(kind)


def test_instruction_following_strict(inp, response):
    (kind,), (kwargs,) = inp.instruction_id_list, inp.kwargs
    followed = bool(response.strip()) and _follows(kind, kwargs, inp.prompt, response)
    return OutputExample([followed])


def test_instruction_following_loose(inp, response):
    return test_instruction_following_strict(inp, response.split("\\n", 1)[-1])
""",
    "lm_eval-9.8.7.dist-info/METADATA": "Metadata-Version: 2.1\nName: lm_eval\nVersion: 9.8.7\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put the package first on the path, for this test alone."""
    for name, text in _PACKAGE.items():
        path = tmp_path / "site" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in _imported():
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in _imported():
        del sys.modules[name]


def _imported() -> list[str]:
    names = ("nltk", "langdetect", "lm_eval")
    return [name for name in sys.modules if name.partition(".")[0] in names]


def write(path: Path, *instructions: tuple[str, Mapping[str, object]]) -> Path:
    kinds, kwargs = zip(*instructions, strict=True)
    line = {
        "key": 1000,
        "prompt": "Say it.",
        "instruction_id_list": list(kinds),
        "kwargs": list(kwargs),
    }
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    return path


def judge(path: Path, text: str) -> Score:
    suite = read_ifeval(path)
    return suite.scorer.score(suite.items[0], Answer(text=text, finish_reason="max_tokens"))


@pytest.mark.usefixtures("package")
def test_nothing_is_downloaded_and_nothing_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = load_suite(f"ifeval:{write(tmp_path / 'data.jsonl', ('punctuation:no_comma', {}))}")
    assert suite.name == "ifeval"
    assert suite.scorer.version == "ifeval 1, lm-eval 9.8.7, without tokenizers/punkt_tab"
    (item,) = suite.items
    assert (item.id, item.category, item.instruction) == ("1000", "punctuation", "Say it.")
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("package")
def test_every_instruction_must_be_followed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "data.jsonl",
        ("punctuation:no_comma", {}),
        ("keywords:existence", {"keywords": ["moon"]}),
        ("combination:repeat_prompt", {}),
    )
    followed = judge(path, "Say it. The moon")
    # How it ended does not count: IFEval asks for the text alone.
    assert (followed.success, followed.details["strict instructions"]) == (True, 1.0)
    broken = judge(path, "Say it, moon")
    assert broken.success is False
    assert broken.details["strict instructions"] == pytest.approx(1 / 3)
    assert broken.details["punctuation:no_comma"] == 0.0
    assert broken.details["keywords:existence"] == 1.0


@pytest.mark.usefixtures("package")
def test_the_loose_score_is_lm_evals_own(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", ("punctuation:no_comma", {}))
    score = judge(path, "Sure, here it is:\nno commas")
    assert (score.success, score.details["loose"]) == (False, 1.0)


@pytest.mark.usefixtures("package")
def test_a_kind_without_its_resource_is_not_scored(tmp_path: Path) -> None:
    sentences = ("length_constraints:number_sentences", {"num_sentences": 3})
    alone = judge(write(tmp_path / "one.jsonl", sentences), "A. B. C.")
    assert alone.success is None
    assert alone.metrics()["success"] is None
    assert alone.metrics()["length_constraints:number_sentences"] is None
    assert alone.details["strict instructions"] is None
    both = write(tmp_path / "two.jsonl", sentences, ("punctuation:no_comma", {}))
    assert judge(both, "A. B.").success is None
    assert judge(both, "A. B.").details["strict instructions"] == 1.0
    # What was found broken stays broken, whatever else could not be judged.
    assert judge(both, "A, B.").success is False


@pytest.mark.usefixtures("package")
def test_an_unknown_kind_is_not_scored(tmp_path: Path) -> None:
    assert judge(write(tmp_path / "data.jsonl", ("new:kind", {})), "a").success is None


@pytest.mark.usefixtures("package")
def test_an_empty_answer_follows_nothing(tmp_path: Path) -> None:
    assert judge(write(tmp_path / "data.jsonl", ("punctuation:no_comma", {})), " ").success is False


@pytest.mark.usefixtures("package")
def test_a_checker_that_draws_at_random_gives_one_score(tmp_path: Path) -> None:
    path = write(
        tmp_path / "data.jsonl",
        ("keywords:letter_frequency", {}),
        ("language:response_language", {"language": "en"}),
    )
    random.seed(5)
    before = random.getstate()
    assert len({judge(path, "a text").success for _ in range(20)}) == 1
    assert judge(path, "a text").details["language:response_language"] == 1.0
    assert random.getstate() == before


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "a"}', "line 1: no 'key'"),
        (
            '{"key": 1, "prompt": "a", "instruction_id_list": ["a"], "kwargs": []}',
            "line 1: kwargs must match",
        ),
        ("", "no prompt"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PromptError, match=message):
        read_ifeval(path)


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(ArmError, match=r"bosal\[ifeval\]"):
        read_ifeval(tmp_path / "data.jsonl")
