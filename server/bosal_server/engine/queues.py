"""The groups that wait for admission: by priority, each key its fair part, then by arrival.

Start-time fair queueing. A group's turn is the larger of the time of the group admitted last and
the end of its key's group before it, which lies that group's cost later; the cost is the tokens
reserved for it. Keys that want more than they get are given equal tokens, whatever the size and
number of their requests, as by deficit round robin. Unlike there, all groups stand in one order,
the same on every model: groups that need several models cannot wait for each other.
"""

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Final

from bosal_server.engine.group import StreamGroup

# Groups that are gone and may stand in a queue beside as many as wait.
_MAX_GONE: Final = 64

# Priority, turn and number of arrival; the smallest is first.
_Place = tuple[int, float, int]


class WaitingQueues:
    """One queue per model; a group with several models stands in each of theirs."""

    def __init__(self, models: Iterable[str]) -> None:
        self._queues: dict[str, list[tuple[_Place, StreamGroup]]] = {model: [] for model in models}
        self._places: dict[StreamGroup, _Place] = {}
        self._numbers = count()
        # By priority: the turn of the group admitted last, and each key's end.
        self._clocks: dict[int, float] = {}
        self._ends: dict[tuple[int, str], float] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, group: StreamGroup) -> bool:
        return group in self._places

    def append(self, group: StreamGroup) -> None:
        now = self._clocks.get(group.priority, 0.0)
        account = (group.priority, group.key_id)
        turn = max(now, self._ends.get(account, now))
        self._ends[account] = turn + group.cost
        place = (-group.priority, turn, next(self._numbers))
        self._places[group] = place
        for model in group.models:
            heappush(self._queues[model], (place, group))

    def remove(self, group: StreamGroup, *, was_admitted: bool = False) -> None:
        """Take a group out; one that was admitted moves the time on."""
        _, turn, _ = self._places.pop(group)
        if was_admitted:
            self._clocks[group.priority] = max(self._clocks.get(group.priority, 0.0), turn)
        for model in group.models:
            self._tidy(self._queues[model])
        if not self._places:
            # Nobody is owed anything any more.
            self._clocks.clear()
            self._ends.clear()

    def _tidy(self, queue: list[tuple[_Place, StreamGroup]]) -> None:
        """Let go of groups that are gone, which else leave from the front alone."""
        if len(queue) > 2 * len(self._places) + _MAX_GONE:
            queue[:] = [entry for entry in queue if self._places.get(entry[1]) == entry[0]]
            heapify(queue)

    def heads(self) -> Iterator[StreamGroup]:
        """Yield the groups that are first on all their models, the first of them first."""
        heads = {}
        for model, queue in self._queues.items():
            while queue and self._places.get(queue[0][1]) != queue[0][0]:
                heappop(queue)
            if queue:
                heads[model] = queue[0]
        for _, group in sorted(heads.values(), key=lambda head: head[0]):
            if all(heads[model][1] is group for model in group.models):
                yield group
