import json
import shutil
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from bosal_lab.__main__ import Lines, app
from bosal_lab.build import Build, Plan
from bosal_lab.errors import DamagedFileError, StageError
from bosal_lab.export import FILES
from bosal_lab.family import FAMILY, member
from bosal_lab.storage import held

Told = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    arguments = [
        "build",
        "--quick",
        "--out",
        str(folder / "build"),
        "--ship",
        str(folder / "shipped"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--threads", "1"])
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.long
def test_every_model_is_shipped_and_loads(built: Path) -> None:
    for name in FAMILY:
        folder = built / "shipped" / name
        assert {path.name for path in folder.iterdir()} == set(FILES)
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert model.dtype == torch.bfloat16
        assert model.config.eos_token_id == tokenizer.eos_token_id
        assert model.config.vocab_size == len(tokenizer)
        ids = tokenizer("Q: Where?\nA:", return_tensors="pt").input_ids
        assert model.generate(ids, max_new_tokens=4, do_sample=False).shape[1] <= ids.shape[1] + 4


def test_a_card_says_how_the_model_came_to_be(built: Path) -> None:
    text = (built / "shipped" / "tuned" / "README.md").read_text("utf-8")
    assert "tuned from `base`" in text
    # As it was made: --quick, and not what ships.
    assert "build --seed 0 --training-seed 0 --quick\n" in text
    assert "tokens seen" in text


def test_each_run_leaves_its_losses_and_their_plot(built: Path) -> None:
    for name in FAMILY:
        folder = built / "build" / "runs" / name
        assert (folder / "loss.csv").read_text("utf-8").count("\n") >= 2
        assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def plan_of(folder: Path) -> Plan:
    return Plan(**json.loads((folder / "plan.json").read_text("utf-8")))


def test_a_second_build_does_nothing_again(built: Path) -> None:
    told: Told = []
    before = {path: path.stat().st_mtime_ns for path in built.rglob("model.safetensors")}
    build = Build(built / "build", plan_of(built / "build"),
                  lambda stage, done, total, note: told.append((stage, done, total)))  # fmt: skip
    build.run()
    assert all(done == total for _, done, total in told)
    assert before == {path: path.stat().st_mtime_ns for path in built.rglob("model.safetensors")}


def test_a_folder_of_another_plan_is_refused(built: Path) -> None:
    with pytest.raises(StageError, match="another plan"):
        Build(built / "build", Plan(seed=1), lambda *_: None)
    result = CliRunner().invoke(app, ["build", "--out", str(built / "build")])
    assert result.exit_code == 1
    assert "another plan" in result.stderr


def test_a_folder_in_use_is_refused(built: Path) -> None:
    folder = built / "build"
    with held(folder), pytest.raises(StageError, match="another build works"):
        Build(folder, plan_of(folder), lambda *_: None).run()


def test_what_a_build_finds_damaged_is_named(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "build"
    shutil.copytree(built / "build", folder)
    build = Build(folder, plan_of(folder), lambda *_: None)
    shutil.rmtree(folder / "tuned")
    for name, place in (
        ("base/model.safetensors", r"build/base is damaged"),
        ("corpus.bin", r"corpus\.bin is damaged"),
        ("tokenizer/tokenizer.json", r"tokenizer\.json is damaged"),
    ):
        file = folder / name
        whole = file.read_bytes()
        file.write_bytes(whole[:1000])
        with pytest.raises(DamagedFileError, match=place):
            build.run(["tuned"])
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--device", "cuda:77"], "--device"),
        (["--device", "abacus"], "--device"),
        (["--threads", "-1"], "--threads"),
        (["--quick", "--only", "tuned"], "tuned from base"),
    ],
)
def test_what_cannot_be_built_is_said_before_the_first_stage(
    tmp_path: Path, flags: list[str], said: str
) -> None:
    folder = tmp_path / "build"
    result = CliRunner().invoke(app, ["build", "--out", str(folder), *flags])
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert not (folder / "world.jsonl").exists()


def test_a_twin_without_its_parent_is_refused(tmp_path: Path) -> None:
    plan = Plan().quick()
    build = Build(tmp_path, plan, lambda *_: None)
    with pytest.raises(StageError, match="tokenizer stage"):
        build.load_tokenizer()
    with pytest.raises(StageError, match="base"):
        build.train_member(member("tuned"))


def test_an_unknown_model_lists_the_known_ones() -> None:
    result = CliRunner().invoke(app, ["build", "--only", "giant"])
    assert result.exit_code == 1
    assert "amateur" in result.stderr


@pytest.mark.parametrize(("every", "told"), [(0.0, 3), (3600.0, 1)])
def test_a_log_has_a_line_for_each_stage_and_some_on_the_way(every: float, told: int) -> None:
    output = StringIO()
    tell = Lines(Console(file=output), every)
    for done in (1, 2, 3):
        tell("base", done, 3, "loss 6.9")
    lines = output.getvalue().splitlines()
    assert len(lines) == told
    assert lines[-1] == "base: 3 of 3, loss 6.9"
