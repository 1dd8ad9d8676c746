"""Room for the shadows of explained choices, which have memory of their own on each model."""

from collections import Counter
from collections.abc import Mapping

from bosal_server.engine.group import StreamGroup


class ShadowRoom:
    """Counts the shadows of admitted groups; a group's are those of its base model."""

    def __init__(self, most: Mapping[str, int | None]) -> None:
        """Hold so many shadows on each model; None is without end."""
        self._most = dict(most)
        self._num_held: Counter[str] = Counter()

    def has_room(self, group: StreamGroup) -> bool:
        most = self._most.get(group.models[0])
        return most is None or self._num_held[group.models[0]] + group.num_shadows <= most

    def take(self, group: StreamGroup) -> None:
        self._num_held[group.models[0]] += group.num_shadows

    def give_back(self, group: StreamGroup) -> None:
        self._num_held[group.models[0]] -= group.num_shadows
