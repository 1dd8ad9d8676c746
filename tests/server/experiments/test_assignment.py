"""Assignment against the published vectors, and the properties users rely on."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bosal_server.experiments.assignment import (
    PPM,
    arm,
    bucket,
    hash64,
    namespace_bucket,
    salt,
)

HALVES = (500_000, 500_000)

# salt, unit, hash, bucket, arm of 50/50, of 90/10, of 50/50 at a tenth.
VECTORS = [
    ("exp_a:1", "user-1", 0x337ED9E04890947F, 201154, 0, 0, None),
    ("exp_a:1", "user-2", 0xB41E045A96EE1F91, 703583, 1, 0, None),
    ("exp_a:2", "user-1", 0x9DC1F62A32347335, 616240, 1, 0, None),
    ("exp_a:1", "user-13", 0x73C7FCEAB67D332B, 452270, 0, 0, None),
    ("exp_a:1", "user-0", 0xC982049596413AB3, 787140, 1, 0, None),
    ("exp", "ü-unit", 0xB5F92883E39115AA, 710833, 1, 0, None),
    ("exp_a:1", "u" * 64, 0x8D33780E336B5713, 551566, 1, 0, None),
    ("", "", 0x12A72136DD48ED97, 72862, 0, 0, None),
]


@pytest.mark.parametrize(("name", "unit", "value", "place", "half", "tenth", "early"), VECTORS)
def test_the_published_vectors_hold(
    name: str, unit: str, value: int, place: int, half: int, tenth: int, early: int | None
) -> None:
    assert hash64("bosal/assign/v1", name, unit) == value
    assert bucket(name, unit) == place
    assert arm(place, HALVES, PPM) == half
    assert arm(place, (900_000, 100_000), PPM) == tenth
    assert arm(place, HALVES, 100_000) == early


def test_the_published_places_in_a_namespace_hold() -> None:
    assert namespace_bucket("ns1", "user-1") == 481278
    assert namespace_bucket("ns1", "user-2") == 625890


def test_another_process_assigns_alike() -> None:
    program = (
        "from bosal_server.experiments.assignment import bucket\n"
        "print([bucket('exp:1', f'user-{i}') for i in range(200)])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "17"},
    ).stdout
    assert printed.strip() == str([bucket("exp:1", f"user-{i}") for i in range(200)])


weights = st.lists(st.integers(1, 1000), min_size=2, max_size=5).map(
    lambda parts: [*(p * PPM // sum(parts) for p in parts[1:]),
                   PPM - sum(p * PPM // sum(parts) for p in parts[1:])]
)  # fmt: skip


@given(weights, st.integers(0, PPM - 1), st.integers(0, PPM), st.integers(0, PPM))
def test_raising_the_coverage_moves_nobody(
    parts: list[int], place: int, one: int, other: int
) -> None:
    low, high = sorted((one, other))
    before, after = arm(place, parts, low), arm(place, parts, high)
    assert before is None or before == after
    assert arm(place, parts, PPM) is not None
    assert arm(place, parts, 0) is None


def test_shares_are_as_asked() -> None:
    parts, coverage = (700_000, 200_000, 100_000), 400_000
    found = [arm(bucket("shares:1", f"unit-{i}"), parts, coverage) for i in range(40_000)]
    counts = [found.count(index) for index in (*range(3), None)]
    expected = [40_000 * share for share in (0.28, 0.08, 0.04, 0.6)]
    assert stats.chisquare(counts, expected).pvalue > 0.001


def test_phases_and_experiments_are_independent() -> None:
    units = [f"unit-{i}" for i in range(20_000)]
    for first, second in ((salt("a", 1), salt("a", 2)), (salt("a", 1), salt("b", 1))):
        table = [[0, 0], [0, 0]]
        for unit in units:
            left, right = (arm(bucket(name, unit), HALVES, PPM) for name in (first, second))
            assert left is not None
            assert right is not None
            table[left][right] += 1
        assert stats.chi2_contingency(table).pvalue > 0.001


def test_fields_do_not_run_into_each_other() -> None:
    assert bucket("a", "bc") != bucket("ab", "c")
