import resource
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from bosal_lab import attention
from bosal_lab.batches import Batch, CorpusSource
from bosal_lab.errors import DamagedFileError, StorageError
from bosal_lab.family import Member
from bosal_lab.train import Progress, Run, Schedule, build_model, evaluate, loss_of, num_labels

TINY = Member(name="tiny", layers=1, hidden=32, mlp=64, heads=2, kv_heads=1, tokens=0)
SCHEDULE = Schedule(steps=12, warm_up=2, save_every=4, part=512)


@pytest.fixture
def source() -> CorpusSource:
    pattern = np.tile(np.arange(50, dtype=np.uint16), 400)
    return CorpusSource(tokens=pattern, batch=1024, seed=0)


def model() -> Qwen3ForCausalLM:
    return build_model(TINY, vocabulary=64, end=0, seed=0)


def quiet(progress: Progress) -> None:
    """Report nothing."""


def test_a_model_is_a_function_of_its_seed() -> None:
    weights = [next(build_model(TINY, 64, 0, seed).parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_training_lowers_the_loss(source: CorpusSource, tmp_path: Path) -> None:
    losses: list[float] = []
    run = Run(model(), tmp_path, replace(SCHEDULE, steps=30))
    run.train(source, lambda progress: losses.append(progress.loss))
    assert losses[0] == pytest.approx(np.log(64), rel=0.1)
    assert losses[-1] < losses[0] * 0.6
    assert run.tokens == 30 * 1024


def test_a_compiled_step_learns_as_the_plain_one_does(
    source: CorpusSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The whole trace, without the minute that the C++ compiler takes.
    traced = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", traced)
    steps: dict[bool, list[Progress]] = {False: [], True: []}
    for is_compiled, told in steps.items():
        run = Run(model(), tmp_path / str(is_compiled), SCHEDULE, is_compiled=is_compiled)
        run.train(source, told.append)
    plain, compiled = ([step.loss for step in steps[kind]] for kind in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-5)


def stopped_at(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step == step:
            raise KeyboardInterrupt

    return report


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    source: CorpusSource, tmp_path: Path
) -> None:
    whole = Run(model(), tmp_path / "whole", SCHEDULE)
    whole.train(source, quiet)
    cut = Run(model(), tmp_path / "cut", SCHEDULE)
    with pytest.raises(KeyboardInterrupt):
        cut.train(source, stopped_at(6))
    resumed = Run(model(), tmp_path / "cut", SCHEDULE)
    assert resumed.step == 4
    resumed.train(source, quiet)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_has_each_step_once_on_its_curve(
    source: CorpusSource, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Run(model(), tmp_path, SCHEDULE).train(source, stopped_at(6))
    curve = tmp_path / "loss.csv"
    curve.write_text(curve.read_text("utf-8") + "7,71", "utf-8")  # As a kill leaves it.
    Run(model(), tmp_path, SCHEDULE).train(source, quiet)
    steps = [int(line.split(",")[0]) for line in curve.read_text("utf-8").splitlines()]
    assert steps == list(range(1, SCHEDULE.steps + 1))


def test_slow_steps_are_saved_by_the_clock(source: CorpusSource, tmp_path: Path) -> None:
    slow = replace(SCHEDULE, save_every=1000, save_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        Run(model(), tmp_path, slow).train(source, stopped_at(3))
    assert Run(model(), tmp_path, slow).step == 2


def test_a_disk_without_room_keeps_the_last_checkpoint(
    source: CorpusSource, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Run(model(), tmp_path, SCHEDULE).train(source, stopped_at(6))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"last\.pt cannot be written"):
            Run(model(), tmp_path, SCHEDULE).train(source, quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("*.partial"))
    assert Run(model(), tmp_path, SCHEDULE).step == 4


def test_a_longer_schedule_goes_on_from_the_trunk_not_from_the_decayed_end(
    source: CorpusSource, tmp_path: Path
) -> None:
    Run(model(), tmp_path, SCHEDULE).train(source, quiet)
    longer = Run(model(), tmp_path, replace(SCHEDULE, steps=40))
    assert longer.step == SCHEDULE.trunk
    assert Run(model(), tmp_path, SCHEDULE).step == SCHEDULE.steps


def test_a_damaged_checkpoint_is_named(source: CorpusSource, tmp_path: Path) -> None:
    Run(model(), tmp_path, SCHEDULE).train(source, quiet)
    path = tmp_path / "last.pt"
    whole = path.read_bytes()
    for content in (whole[:1000], whole[:-1000], b"", b"no checkpoint"):
        path.write_bytes(content)
        with pytest.raises(DamagedFileError, match=r"last\.pt"):
            Run(model(), tmp_path, SCHEDULE)


def test_the_rate_warms_up_stays_and_falls_to_nothing() -> None:
    schedule = Schedule(steps=100, warm_up=10, decay_share=0.3)
    assert schedule.scale(0) == pytest.approx(0.1)
    assert schedule.scale(50) == 1.0
    assert schedule.trunk == 70
    assert 0 < schedule.scale(99) < 0.05


def test_parts_of_a_batch_add_up(source: CorpusSource) -> None:
    batch = source.at(0)
    found = model()
    whole = loss_of(found, batch).item()
    parts = sum(loss_of(found, part).item() for part in batch.parts(256))
    assert parts == pytest.approx(whole, rel=1e-3)
    assert num_labels(batch) == batch.ids.numel() - len(batch.ids)


def test_ignored_labels_carry_no_loss(source: CorpusSource) -> None:
    ids = source.at(0).ids[:2]
    labels = ids.clone()
    labels[:, :-1] = -100
    batch = Batch(ids=ids, labels=labels)
    assert num_labels(batch) == 2
    assert loss_of(model(), batch).item() < loss_of(model(), Batch(ids=ids, labels=ids)).item()


def test_our_attention_agrees_with_the_eager_one() -> None:
    found = model().float()
    ids = torch.arange(40).reshape(2, 20)
    ours = found(input_ids=ids).logits
    found.set_attn_implementation("eager")
    assert torch.allclose(ours, found(input_ids=ids).logits, atol=1e-4)
    assert attention.NAME != "eager"


def test_evaluation_is_the_mean_loss_of_a_token() -> None:
    tokens = np.zeros(2048, dtype=np.uint16)
    assert evaluate(model(), tokens) == pytest.approx(np.log(64), rel=0.2)
