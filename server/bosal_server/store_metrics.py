"""How the store of experiments keeps up."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Records since the start, those that wait, and what they say of running experiments."""

    written: int
    lost: int
    waiting: int
    # By experiment: whether its arms have not the shares they were given.
    mismatched: Mapping[str, bool] = field(default_factory=dict)


class StoreMetrics(Collector):
    """Reads the counts whenever it is scraped."""

    def __init__(self) -> None:
        self.read: Callable[[], StoreCounts] = lambda: StoreCounts(0, 0, 0)

    def collect(self) -> Iterator[Metric]:
        counts = self.read()
        records = CounterMetricFamily(
            "bosal_store_records",
            "Exposures and outcomes that were written, or given up.",
            labels=["outcome"],
        )
        records.add_metric(["written"], counts.written)
        records.add_metric(["lost"], counts.lost)
        yield records
        yield GaugeMetricFamily(
            "bosal_store_waiting_records",
            "Exposures and outcomes that wait to be written.",
            value=counts.waiting,
        )
        mismatched = GaugeMetricFamily(
            "bosal_sample_ratio_mismatch",
            "1 for a running experiment whose arms have not the shares they were given.",
            labels=["experiment"],
        )
        for experiment, is_mismatched in counts.mismatched.items():
            mismatched.add_metric([experiment], is_mismatched)
        yield mismatched
