"""Disks, clocks and clients that misbehave, for seconds; longer by `benchmarks.soak chaos`."""

from argparse import Namespace

import pytest
from benchmarks.harness import Report
from benchmarks.soak_parts import chaos


@pytest.mark.long
def test_whatever_happens_all_is_served_or_refused_and_nothing_is_lost() -> None:
    report = Report("chaos", Namespace(quick=True, json=None))
    chaos.run(report.options, report)
    figures = report.figures
    # Nothing could be written while the disk was full, and all was served.
    assert figures["chaos_refused"] >= 1
    assert figures["chaos_full_disk_without_exposure"] >= 1
    assert figures["chaos_acknowledged"] >= 8
    assert figures["chaos_lost"] == 0
    assert figures["leaked_after_chaos"] == 0
