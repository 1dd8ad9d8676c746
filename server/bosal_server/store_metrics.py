"""How the store of experiments keeps up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """Records since the start, and those that wait."""

    written: int
    lost: int
    waiting: int


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
