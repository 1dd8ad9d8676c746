"""The groups that wait for admission, one queue per model."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import count

from bosal_server.engine.group import StreamGroup


class WaitingQueues:
    """First come, first served on each model; a group with several models stands in each queue."""

    def __init__(self, models: Iterable[str]) -> None:
        # By group: its number, which orders groups of different models.
        self._queues: dict[str, OrderedDict[StreamGroup, int]] = {
            model: OrderedDict() for model in models
        }
        self._numbers = count()
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def append(self, group: StreamGroup) -> None:
        number = next(self._numbers)
        for model in group.models:
            self._queues[model][group] = number
        self._num_waiting += 1

    def remove(self, group: StreamGroup) -> None:
        for model in group.models:
            del self._queues[model][group]
        self._num_waiting -= 1

    def heads(self) -> Iterator[StreamGroup]:
        """Yield the groups that are first on all their models, the oldest first."""
        heads = {model: next(iter(queue.items())) for model, queue in self._queues.items() if queue}
        for group, _ in sorted(heads.values(), key=lambda head: head[1]):
            if all(heads[model][0] is group for model in group.models):
                yield group
