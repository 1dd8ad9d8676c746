"""Many strings looked for at once in a text that comes byte by byte."""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType


class StringAutomaton:
    """Aho-Corasick over bytes: the state says how much of which string the text ends with."""

    def __init__(
        self,
        strings: Iterable[bytes],
        owners: Mapping[bytes, frozenset[int]] = MappingProxyType({}),
    ) -> None:
        """`owners` are the rules, by place, of strings that count only while one is in force."""
        self.strings = tuple(strings)
        self._owners = owners
        self._next: dict[tuple[int, int], int] = {}
        # Bytes of the longest suffix of the text that begins one of the strings.
        self.depth = [0]
        # The longest string that the text ends with, or None.
        self.match: list[bytes | None] = [None]
        for string in self.strings:
            state = 0
            for byte in string:
                state = self._child(state, byte)
            self.match[state] = string
        self._fail = self._failures()

    def step(self, state: int, byte: int) -> int:
        """The state after one more byte of text."""
        following = self._next.get((state, byte))
        while following is None and state:
            state = self._fail[state]
            following = self._next.get((state, byte))
        return following or 0

    def found(self, state: int, in_force: Collection[int]) -> bytes | None:
        """The longest string that the text ends with and whose rule is in force."""
        string = self.match[state]
        while string is not None:
            owners = self._owners.get(string)
            if owners is None or not owners.isdisjoint(in_force):
                return string
            # What else the text ends with ends that, too.
            rest = (one for one in self.strings if one != string and string.endswith(one))
            string = max(rest, key=len, default=None)
        return None

    def owner(self, string: bytes, in_force: Collection[int]) -> int | None:
        """The rule in force that a string belongs to; None: to one that always is."""
        return next((one for one in self._owners.get(string, ()) if one in in_force), None)

    def _child(self, state: int, byte: int) -> int:
        child = self._next.setdefault((state, byte), len(self.depth))
        if child == len(self.depth):
            self.depth.append(self.depth[state] + 1)
            self.match.append(None)
        return child

    def _failures(self) -> list[int]:
        fail = [0] * len(self.depth)
        children: dict[int, list[tuple[int, int]]] = {}
        for (state, byte), child in self._next.items():
            children.setdefault(state, []).append((byte, child))
        queue = deque([0])
        while queue:
            state = queue.popleft()
            for byte, child in children.get(state, ()):
                if state:
                    back = fail[state]
                    while back and (back, byte) not in self._next:
                        back = fail[back]
                    fail[child] = self._next.get((back, byte), 0)
                if self.match[child] is None:
                    self.match[child] = self.match[fail[child]]
                queue.append(child)
        return fail
