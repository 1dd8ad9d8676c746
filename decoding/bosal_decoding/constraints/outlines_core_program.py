"""Regexes and choices matched by outlines_core, with two repairs of its 0.2 releases.

It drops tokens that end a byte behind a match, and prefers the first alternative. Both vanish
where every match ends with a sentinel that no text holds: U+10FFFF, which is the end's spelling.
"""

from base64 import b64encode
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from outlines_core import Guide, Index, Vocabulary

from bosal_decoding.constraints import regex
from bosal_decoding.constraints.constraint import Constraint
from bosal_decoding.constraints.errors import (
    CompileTimeout,
    ConstraintSyntax,
    ConstraintUnsatisfiable,
    ConstraintUnsupported,
)
from bosal_decoding.constraints.limits import (
    CLOSE_SECONDS,
    COMPILE_SECONDS_UNROLLED,
    MAX_UNROLLED_REPETITION,
)
from bosal_decoding.constraints.program import ConstraintViolation, MaskRow
from bosal_decoding.constraints.spelling import Spelling, bit_of
from bosal_decoding.constraints.trial import TrialKilled, TrialProcess
from bosal_decoding.errors import shorten

_SENTINEL: Final = "\U0010ffff".encode()
_END: Final = 256
_BYTES_PER_TRANSITION: Final = 24


class OutlinesCoreCompiler:
    """Compiles with outlines_core; used by one thread."""

    def __init__(self) -> None:
        self._trial = TrialProcess()
        self._vocabularies: dict[str, Vocabulary] = {}

    def close(self) -> None:
        self._trial.close()

    def compile(
        self, key: str, constraint: Constraint, spelling: Spelling, lead: str
    ) -> "OutlinesCoreProgram":
        pattern = _pattern(constraint, lead)
        tokens = [b64encode(spelled).decode() for spelled in spelling.token_bytes]
        request = {"do": "outlines_core", "pattern": pattern, "tokens": tokens}
        try:
            answer = self._trial.ask(request, COMPILE_SECONDS_UNROLLED)
        except TrialKilled as error:
            raise CompileTimeout(f"it could not be compiled: {error}") from None
        if "error" in answer:
            raise ConstraintSyntax(f"outlines_core: {shorten(answer['error'], 200)}")
        graph = ByteGraph(pattern)
        close = graph.completion(graph.start)
        tokens_close = None if close is None else spelling.tokenize(close)
        return OutlinesCoreProgram(
            key=key,
            spelling=spelling,
            index=Index(pattern, self._vocabulary(spelling)),
            graph=graph,
            num_bytes=_BYTES_PER_TRANSITION * answer["transitions"],
            close=None if tokens_close is None else tuple(tokens_close),
        )

    def _vocabulary(self, spelling: Spelling) -> Vocabulary:
        digest = spelling.vocabulary.digest
        if digest not in self._vocabularies:
            self._vocabularies[digest] = vocabulary_of(spelling.token_bytes)
        return self._vocabularies[digest]


def vocabulary_of(token_bytes: Sequence[bytes]) -> Vocabulary:
    """Build a vocabulary of bytes whose last token but one is the sentinel."""
    ids: dict[bytes, list[int]] = {_SENTINEL: [len(token_bytes)]}
    for token, spelled in enumerate(token_bytes):
        if spelled and _SENTINEL not in spelled:
            ids.setdefault(spelled, []).append(token)
    return Vocabulary(len(token_bytes) + 1, ids)


def _pattern(constraint: Constraint, lead: str) -> str:
    if constraint.regex is not None:
        body = regex.translate(constraint.regex, max_repetition=MAX_UNROLLED_REPETITION)
    elif constraint.choice is not None:
        body = "|".join(map(regex.escape, constraint.choice))
    else:
        raise ConstraintUnsupported(
            f"outlines_core enforces 'regex' and 'choice', not '{constraint.kind}'",
            keywords=["backend"],
        )
    return f"{regex.escape(lead)}(?:{body})\\x{{10FFFF}}"


class ByteGraph:
    """The language as an automaton over bytes, with the way to the nearest end."""

    def __init__(self, pattern: str) -> None:
        index = Index(pattern, vocabulary_of([bytes([byte]) for byte in range(256)]))
        self.start: int = index.get_initial_state()
        final = set(index.get_final_states())
        self._next: Mapping[int, Mapping[int, int]] = index.get_transitions()
        # The sentinel is legal inside of `.` too: it ends a text only where it leads to an end.
        self._accepting = {state for state, moves in self._next.items() if moves.get(_END) in final}
        self._toward = self._ways()
        if self.start not in self._toward:
            raise ConstraintUnsatisfiable("no text satisfies it")

    def step(self, state: int, data: bytes) -> int | None:
        """Follow bytes to a state that some end can be reached from."""
        for byte in data:
            following = self._next.get(state, {}).get(byte)
            if following is None or following not in self._toward:
                return None
            state = following
        return state

    def is_accepting(self, state: int) -> bool:
        return state in self._accepting

    def has_more(self, state: int) -> bool:
        """Whether any byte may follow."""
        moves = self._next.get(state, {})
        return any(byte != _END and after in self._toward for byte, after in moves.items())

    def completion(self, state: int) -> bytes | None:
        """Return the fewest bytes to an end."""
        written = bytearray()
        while state not in self._accepting:
            if state not in self._toward:
                return None
            byte, state = self._toward[state]
            written.append(byte)
        return bytes(written)

    def _ways(self) -> dict[int, tuple[int, int]]:
        """By state: the byte and the state toward the nearest end."""
        before: dict[int, list[tuple[int, int]]] = {}
        for state, moves in self._next.items():
            for byte, after in moves.items():
                if byte != _END:
                    before.setdefault(after, []).append((byte, state))
        toward = {state: (-1, state) for state in self._accepting}
        queue = deque(self._accepting)
        while queue:
            after = queue.popleft()
            for byte, state in before.get(after, ()):
                if state not in toward:
                    toward[state] = (byte, after)
                    queue.append(state)
        return toward


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlinesCoreProgram:
    """An index over one vocabulary, and the same language over bytes."""

    key: str
    spelling: Spelling
    index: Index = field(repr=False)
    graph: ByteGraph = field(repr=False)
    num_bytes: int
    close: tuple[int, ...] | None
    ignored: tuple[str, ...] = ()
    json_schema: str | None = None
    longest_jump: int = 0
    backend: str = "outlines_core"

    def new_state(self) -> "OutlinesCoreState":
        return OutlinesCoreState(self)


class OutlinesCoreState:
    """One sequence's guide, which gives the masks, and its place in the graph."""

    __slots__ = ("_guide", "_places", "_program", "_tokens")

    failure = ""

    def __init__(self, program: OutlinesCoreProgram, tokens: Sequence[int] = ()) -> None:
        self._program = program
        self._restart()
        for token in tokens:
            self.advance(token)

    def _restart(self) -> None:
        self._guide = Guide(self._program.index)
        self._tokens: list[int] = []
        # After each token: where in the graph.
        self._places = [self._program.graph.start]

    @property
    def is_accepting(self) -> bool:
        return self._program.graph.is_accepting(self._places[-1])

    @property
    def is_finished(self) -> bool:
        return self.is_accepting and not self._program.graph.has_more(self._places[-1])

    def allowed(self, row: MaskRow) -> None:
        spelling = self._program.spelling
        row[:] = 0
        num_words = (len(spelling.token_bytes) + 1) // 32 + 1
        words = np.zeros(num_words, np.int32)
        self._guide.write_mask_into(words.ctypes.data, num_words, 4)
        sentinel = len(spelling.token_bytes)
        words[sentinel >> 5] &= ~bit_of(sentinel)
        count = min(len(row), num_words, spelling.num_words)
        row[:count] = words[:count] & spelling.ordinary[:count]
        if self.is_accepting:
            spelling.allow_end(row)

    def advance(self, token: int) -> None:
        spelling = self._program.spelling
        place: int | None = self._places[-1]
        if token in spelling.vocabulary.eos_ids:
            if not self.is_accepting:
                raise ConstraintViolation(token)
        else:
            spelled = spelling.token_bytes[token] if token < len(spelling.token_bytes) else b""
            place = self._program.graph.step(self._places[-1], spelled) if spelled else None
            if place is None:
                raise ConstraintViolation(token)
            self._guide.advance(token, False)
        self._tokens.append(token)
        self._places.append(place if place is not None else self._places[-1])

    def validate(self, tokens: Sequence[int]) -> int:
        place: int | None = self._places[-1]
        for count, token in enumerate(tokens):
            spelled = self._program.spelling.token_bytes[token]
            place = self._program.graph.step(place, spelled) if place is not None else None
            if place is None or not spelled:
                return count
        return len(tokens)

    def rollback(self, num_tokens: int) -> None:
        if num_tokens:
            kept = self._tokens[:-num_tokens]
            self._restart()
            for token in kept:
                self.advance(token)

    def forced_tokens(self) -> list[int]:
        return []

    def close_tokens(self, seconds: float = CLOSE_SECONDS) -> list[int] | None:
        data = self._program.graph.completion(self._places[-1])
        return None if data is None else self._program.spelling.tokenize(data)

    def completes(self, tokens: Sequence[int]) -> bool:
        spelled = self._program.spelling.vocabulary.bytes_of(tokens)
        place = self._program.graph.step(self._places[-1], spelled)
        return place is not None and self._program.graph.is_accepting(place)

    def fork(self) -> "OutlinesCoreState":
        return OutlinesCoreState(self._program, self._tokens)
