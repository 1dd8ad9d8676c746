"""Paired comparisons of made-up answers whose outcome is known."""

from pathlib import Path

import numpy as np
import pytest
from tests.lab import records

from bosal_lab.compare import compare
from bosal_lab.divergence import disagreements, first_difference
from bosal_lab.evaluation_errors import ArmError

YES, NO = ["yes"], ["no"]


def test_binary_outcomes_are_counted_pair_by_pair(tmp_path: Path) -> None:
    answers = {
        "base/plain": [YES] * 10 + [NO] * 15 + [YES] * 5 + [NO] * 10,
        "base/steered": [YES] * 10 + [YES] * 15 + [NO] * 5 + [NO] * 10,
    }
    with records.results(tmp_path / "r.sqlite", records.suite(40), answers) as results:
        (found,) = compare(results, "base/plain", ["base/steered"])
    whole = found.whole
    assert whole.mcnemar is not None
    assert (whole.mcnemar.only_first, whole.mcnemar.only_second) == (5, 15)
    assert whole.mcnemar.exact == pytest.approx(0.041389, abs=1e-6)
    assert whole.p == whole.adjusted_p == pytest.approx(0.026604, abs=1e-6)
    assert (whole.items, whole.first, whole.second) == (40, 0.375, 0.625)
    assert whole.difference.value == pytest.approx(0.25)
    assert whole.difference.low > 0
    assert [one.name for one in found.slices] == ["c0", "c1"]
    assert sum(one.items for one in found.slices) == 40
    assert found.is_coupled
    assert (found.divergence.identical, found.divergence.pairs) == (20, 40)
    assert found.divergence.median_token == 0


def test_holm_goes_over_the_arms(tmp_path: Path) -> None:
    answers = {
        "base/plain": [NO] * 30,
        "base/one": [YES] * 6 + [NO] * 24,
        "base/two": [YES] * 5 + [NO] * 25,
        "base/three": [YES] * 1 + [NO] * 29,
    }
    arms = ["base/one", "base/two", "base/three"]
    with records.results(tmp_path / "r.sqlite", records.suite(30), answers) as results:
        found = compare(results, "base/plain", arms)
    p = [one.whole.p for one in found]
    assert p == pytest.approx([2**-5 - 2**-6, 2**-4 - 2**-5, 1 - 0.5])
    assert [one.whole.adjusted_p for one in found] == pytest.approx(
        [3 * p[0], max(3 * p[0], 2 * p[1]), p[2]]
    )


@pytest.mark.parametrize(("margin", "fails"), [(None, False), (0.02, True), (0.2, False)])
def test_a_margin_asks_for_proof_and_its_absence_for_harm(
    tmp_path: Path, margin: float | None, fails: bool
) -> None:
    answers = {
        "base/plain": [YES] * 30 + [NO] * 30,
        "base/steered": [YES] * 29 + [NO] * 31,
    }
    with records.results(tmp_path / "r.sqlite", records.suite(60), answers) as results:
        (found,) = compare(results, "base/plain", ["base/steered"])
    assert found.is_worse(alpha=0.05, margin=margin, lower_is_better=False) is fails


def test_significant_harm_is_worse_in_the_metrics_own_direction(tmp_path: Path) -> None:
    answers = {"base/plain": [YES] * 20, "base/steered": [["no, and no more"]] * 20}
    with records.results(tmp_path / "r.sqlite", records.suite(20), answers) as results:
        (success,) = compare(results, "base/plain", ["base/steered"])
        (tokens,) = compare(results, "base/plain", ["base/steered"], metric="tokens")
    assert success.is_worse(alpha=0.05, margin=None, lower_is_better=False)
    assert not tokens.is_worse(alpha=0.05, margin=None, lower_is_better=False)
    assert tokens.is_worse(alpha=0.05, margin=None, lower_is_better=True)
    assert tokens.is_worse(alpha=0.05, margin=5, lower_is_better=True)
    assert not tokens.is_worse(alpha=0.05, margin=20, lower_is_better=True)
    assert tokens.whole.difference.value == len("no, and no more") - len("yes")
    assert tokens.whole.method == "BCa bootstrap, swap test"
    assert tokens.whole.mcnemar is None


def test_several_samples_are_averaged_within_their_item(tmp_path: Path) -> None:
    answers = {
        "base/plain": [["yes", "no", "no", "no"]] * 12,
        "base/steered": [["yes", "yes", "no", "yes"], ["no", "no", "yes", "no"]] * 6,
    }
    with records.results(tmp_path / "r.sqlite", records.suite(12), answers) as results:
        (found,) = compare(results, "base/plain", ["base/steered"])
    assert found.samples == 4
    assert (found.whole.first, found.whole.second) == (0.25, 0.5)
    assert found.whole.method == "BCa bootstrap, swap test"
    assert found.whole.mcnemar is None


def test_items_that_belong_together_widen_the_interval(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    by_cluster = rng.random(15) < 0.6
    answers = {
        "base/plain": [NO] * 60,
        "base/steered": [YES if by_cluster[item // 4] else NO for item in range(60)],
    }
    widths = {}
    for cluster in (1, 4):
        of = records.suite(60, cluster=cluster)
        with records.results(tmp_path / f"{cluster}.sqlite", of, answers) as results:
            (found,) = compare(results, "base/plain", ["base/steered"])
        widths[cluster] = found.whole.difference.high - found.whole.difference.low
        assert found.whole.method.startswith("McNemar" if cluster == 1 else "clustered")
    assert widths[4] > 1.5 * widths[1]


def test_errors_are_failures_and_answers_without_verdict_are_left_out(tmp_path: Path) -> None:
    answers = {
        "base/plain": [YES, YES, YES, YES, YES],
        "base/steered": [YES, ["!"], ["?"], YES],
    }
    with records.results(tmp_path / "r.sqlite", records.suite(5), answers) as results:
        (found,) = compare(results, "base/plain", ["base/steered"])
        (tokens,) = compare(results, "base/plain", ["base/steered"], metric="tokens")
    # "?" is wrong besides: content alone settles it.
    assert (found.whole.items, found.left_out) == (4, 1)
    assert found.whole.second == 0.5
    assert (tokens.whole.items, tokens.left_out) == (3, 2)


def test_the_saving_is_what_independent_noise_would_have_cost(tmp_path: Path) -> None:
    """Redraw one arm's noise many times and measure the variance the coupling removed."""
    rng = np.random.default_rng(8)
    num_items, samples = 250, 3
    ease = rng.random(num_items)
    noise = rng.random((num_items, samples))
    first = (noise < ease[:, None]).astype(float)
    second = (noise < ease[:, None] * 0.9).astype(float)
    means = []
    for _ in range(300):
        fresh = (rng.random((num_items, samples)) < ease[:, None] * 0.9).astype(float)
        means.append(np.var(fresh.mean(1) - first.mean(1)))
    expected = np.mean(means) / np.var(second.mean(1) - first.mean(1))
    words = np.array(["no", "yes"])
    answers = {
        "base/plain": words[first.astype(int)].tolist(),
        "base/steered": words[second.astype(int)].tolist(),
    }
    of = records.suite(num_items)
    with records.results(tmp_path / "r.sqlite", of, answers) as results:
        (found,) = compare(results, "base/plain", ["base/steered"])
    assert found.saving.uncoupled is not None
    assert found.saving.uncoupled == pytest.approx(expected, rel=0.15)
    unpaired = (np.var(first.mean(1)) + np.var(second.mean(1))) / np.var(
        second.mean(1) - first.mean(1)
    )
    assert found.saving.unpaired == pytest.approx(unpaired)
    assert found.saving.unpaired > found.saving.uncoupled > 1.5


def test_one_sample_measures_the_pairing_alone(tmp_path: Path) -> None:
    answers = {"base/plain": [YES, NO] * 5, "base/steered": [YES, NO] * 5}
    noise = {"base/steered": "7/base/steered"}
    with records.results(tmp_path / "r.sqlite", records.suite(10), answers, noise) as results:
        (found,) = compare(results, "base/plain", ["base/steered"])
    assert found.saving.uncoupled is None
    assert found.saving.unpaired == float("inf")
    assert not found.is_coupled
    assert found.whole.p == 1.0


def test_disagreements_are_the_pairs_that_count(tmp_path: Path) -> None:
    answers = {"base/plain": [YES, NO, YES, ["!"]], "base/steered": [YES, YES, ["no…"], YES]}
    with records.results(tmp_path / "r.sqlite", records.suite(4), answers) as results:
        pairs = disagreements(results, "base/plain", "base/steered")
    assert [(one.text, other.text) for one, other in pairs] == [("no", "yes"), ("yes", "no…")]


def test_sequences_part_where_they_differ_or_where_one_ends() -> None:
    assert first_difference([1, 2, 3], [1, 2, 4]) == 2
    assert first_difference([1, 2], [1, 2, 3]) == 2
    assert first_difference([1, 2], [1, 2]) is None


def test_what_cannot_be_compared_is_refused_by_name(tmp_path: Path) -> None:
    answers = {"base/plain": [YES], "base/steered": [NO, NO]}
    with records.results(tmp_path / "r.sqlite", records.suite(2), answers) as results:
        with pytest.raises(ArmError, match="with itself"):
            compare(results, "base/plain", ["base/plain"])
        with pytest.raises(ArmError, match="did you mean 'base/steered'"):
            compare(results, "base/plain", ["base/stered"])
        with pytest.raises(ArmError, match="no metric is named 'succes'"):
            compare(results, "base/plain", ["base/steered"], metric="succes")
        with pytest.raises(ArmError, match="share no item"):
            compare(results, "base/plain", ["base/steered"], split="dev")
