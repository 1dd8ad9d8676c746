"""A plan while it is being compiled: where the rules of one recipe write their numbers."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from bosal_decoding.errors import UnknownTokenId, UnknownTokenString, shorten
from bosal_decoding.schema import join_field
from bosal_decoding.vocabulary import Vocabulary
from bosal_kernels import Stage


@dataclass(slots=True, kw_only=True)
class Draft:
    """The numbers of a plan in the making; a field nobody writes stays neutral."""

    vocabulary: Vocabulary
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    used_weight: float = 0.0
    used_includes_instruction: bool = False
    eos_ramp_weight: float = 0.0
    eos_ramp_over: int = 1
    eos_decay_start: int = 0
    eos_decay_factor: float = 1.0
    min_tokens: int = 0
    no_repeat_ngram: int = 0
    max_tokens: int | None = None
    chain: list[tuple[Stage, float, float]] = field(default_factory=list)
    deltas: dict[int, float] = field(default_factory=dict)
    stop_strings: list[bytes] = field(default_factory=list)
    banned_strings: list[bytes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Of the rule being compiled: its place in the document and what its strings became.
    path: str = ""
    token_ids: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def begin(self, path: str) -> None:
        """Turn to the rule at this place of the document."""
        self.path = path
        self.token_ids = {}

    def truncate(self, stage: Stage, value: float, second: float = 0.0) -> None:
        """Append a stage to the truncation chain."""
        self.chain.append((stage, value, second))

    def weigh_id(self, token: int, weight: float, *path: str | int) -> None:
        """Add a weight to one token."""
        if token >= self.vocabulary.size:
            where = join_field(self.path, *path)
            raise UnknownTokenId(token, self.vocabulary.size, field=where)
        self.deltas[token] = self.deltas.get(token, 0.0) + weight

    def weigh_string(self, text: str, weight: float, *path: str | int, skip: bool = False) -> None:
        """Add a weight to every single token that spells `text`; none is an error or a note."""
        ids = self.vocabulary.ids_of(text)
        where = join_field(self.path, *path)
        if not ids and not skip:
            raise UnknownTokenString(text, field=where)
        if not ids:
            self.notes.append(f"{where}: no single token spells {shorten(text)}, skipped")
        self.token_ids[text] = ids
        for token in ids:
            self.weigh_id(token, weight, *path)

    def stop_at(self, texts: Iterable[str]) -> None:
        _extend(self.stop_strings, texts)

    def ban(self, texts: Iterable[str]) -> None:
        _extend(self.banned_strings, texts)


def _extend(strings: list[bytes], texts: Iterable[str]) -> None:
    for text in texts:
        if (spelling := text.encode()) not in strings:
            strings.append(spelling)
