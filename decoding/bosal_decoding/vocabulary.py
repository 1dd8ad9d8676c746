"""A tokenizer seen as bytes: what every token spells, and how text becomes tokens."""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Self

from tokenizers import Encoding, Tokenizer

from bosal_decoding.errors import InvalidText, SpecialTokenInText, UnsupportedTokenizer
from bosal_decoding.pieces import speller
from bosal_decoding.spellings import Spellings

# Characters; a shorter one is encoded before another thread could have taken over.
_LONG_TEXT: Final = 1000


class Vocabulary:
    """The tokens of one tokenizer as bytes, with its own private encoder."""

    def __init__(
        self,
        *,
        encoder: Tokenizer,
        token_bytes: Sequence[bytes],
        special: Mapping[int, str],
        eos_ids: Iterable[int],
        unknown_id: int | None,
        bos: Sequence[int],
        digest: str,
        pieces: Sequence[str] = (),
    ) -> None:
        self.token_bytes = tuple(token_bytes)
        # What the tokenizer calls each token; two tokenizers that agree here share their ids.
        self.pieces = tuple(pieces)
        self.eos_ids = frozenset(eos_ids)
        self.digest = digest
        self._encoder = encoder
        self._bos = tuple(bos)
        # An unknown character is lost text, not control; every other special id is control.
        self._control = {token: text for token, text in special.items() if token != unknown_id}

    @classmethod
    def from_tokenizer(cls, tokenizer: object, *, eos_ids: Iterable[int] | None = None) -> Self:
        """Read a Hugging Face fast tokenizer; unset `eos_ids` are the tokenizer's own."""
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, Tokenizer):
            raise UnsupportedTokenizer(type(tokenizer).__name__, "it is not a fast tokenizer")
        config = json.loads(backend.to_str())
        config["truncation"] = config["padding"] = None
        bos = _leading_special_ids(Tokenizer.from_str(json.dumps(config)))
        # The post-processor only adds special tokens and trims offsets; both are unwanted here.
        config["post_processor"] = None
        encoder = Tokenizer.from_str(json.dumps(config))
        encoder.encode_special_tokens = True

        if eos_ids is None:
            own = getattr(tokenizer, "eos_token_id", None)
            eos_ids = () if own is None else (own,)
        eos = frozenset(int(token) for token in eos_ids)
        added = encoder.get_added_tokens_decoder()
        special = {token: entry.content for token, entry in added.items() if entry.special}
        pieces = {token: piece for piece, token in encoder.get_vocab().items()}
        size = max((*pieces, *eos), default=-1) + 1
        if size == 0:
            raise UnsupportedTokenizer(type(tokenizer).__name__, "it has no tokens")
        spell = speller(config, {token: entry.content for token, entry in added.items()})
        token_bytes = [
            b""
            if token in special or token in eos or token not in pieces
            else spell(token, pieces[token])
            for token in range(size)
        ]
        return cls(
            encoder=encoder,
            token_bytes=token_bytes,
            special=special | {token: pieces.get(token, "") for token in eos},
            eos_ids=eos,
            unknown_id=_unknown_id(config, encoder),
            bos=bos,
            digest=_digest(config, bos, eos),
            pieces=[pieces.get(token, "") for token in range(size)],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Vocabulary(size={self.size}, digest={self.digest!r})"

    @property
    def size(self) -> int:
        """Number of ids the tokenizer knows; a model's head may be padded beyond it."""
        return len(self.token_bytes)

    def first_difference(self, other: "Vocabulary") -> int | None:
        """The first of these ids that is another token there; None if there is none.

        The other one may know more: it is as if it ended here.
        """
        if self.digest == other.digest:
            return None
        if self.pieces == other.pieces[: self.size]:
            return None
        both = zip(self.pieces, other.pieces, strict=False)
        differing = (token for token, (own, its) in enumerate(both) if own != its)
        return next(differing, min(self.size, other.size))

    def ids_of(self, text: str) -> tuple[int, ...]:
        """Every single token that spells exactly this text, in id order."""
        return self._ids_by_bytes.get(_utf8(text), ())

    def ids_containing(self, text: str) -> tuple[int, ...]:
        """Every token whose bytes hold this text, in id order."""
        part = _utf8(text)
        return tuple(self.spellings.holding(part).tolist()) if part else tuple(range(self.size))

    def bytes_of(self, tokens: Iterable[int]) -> bytes:
        """The bytes a token sequence spells; special tokens spell nothing."""
        return b"".join(self.token_bytes[token] for token in tokens)

    def encode(self, text: str) -> list[int]:
        """Tokenise a whole text: BOS once if the tokenizer adds it, no control from within."""
        return self.encode_with_offsets(text)[0]

    def encode_fragment(self, text: str) -> list[int]:
        """Tokenise a text that begins no prompt: no BOS."""
        _utf8(text)
        return list(self._encoding(text).ids)

    def encode_continuation(self, text: str) -> list[int]:
        """Tokenise a text that other text precedes: no BOS."""
        return self.encode(text)[len(self._bos) :]

    def spell(self, text: str) -> list[int] | None:
        """Tokens that spell exactly this text, as a continuation; None if there are none."""
        wanted = _utf8(text)
        # Some tokenizers put a space before whatever they encode.
        for attempt in (text, text[1:]) if text.startswith(" ") else (text,):
            ids = self.encode_continuation(attempt)
            if self.bytes_of(ids) == wanted:
                return ids
        return None

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenise a whole text, with the characters each token covers (BOS covers none)."""
        _utf8(text)
        encoding = self._encoding(text)
        for token in encoding.ids:
            if token in self._control:
                raise SpecialTokenInText(self._control[token])
        bos = self._bos
        return [*bos, *encoding.ids], [*((0, 0) for _ in bos), *encoding.offsets]

    def _encoding(self, text: str) -> Encoding:
        if len(text) < _LONG_TEXT:
            return self._encoder.encode(text, add_special_tokens=False)
        # `encode` keeps Python's lock until it is done, a second for a prompt of 256 KiB, and
        # with it every other thread; this one lets go of it.
        (encoding,) = self._encoder.encode_batch([text], add_special_tokens=False)
        return encoding

    def ids_beginning(self, part: bytes) -> tuple[int, ...]:
        """Every token whose bytes begin with these, which are not none."""
        spelled, ids = self._sorted
        first = bisect_left(spelled, part)
        last = bisect_left(spelled, True, first, key=lambda own: not own.startswith(part))
        return ids[first:last]

    def ids_spelling(self, part: bytes) -> tuple[int, ...]:
        """Every token whose bytes are these, in id order."""
        return self._ids_by_bytes.get(part, ())

    def is_extended(self, part: bytes) -> bool:
        """Whether a token begins with these bytes and has more."""
        spelled, _ = self._sorted
        place = bisect_right(spelled, part)
        return place < len(spelled) and spelled[place].startswith(part)

    @cached_property
    def spellings(self) -> Spellings:
        """The bytes of all tokens, to be asked about all at once."""
        return Spellings(self.token_bytes)

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.token_bytes), default=0)

    @cached_property
    def _sorted(self) -> tuple[list[bytes], tuple[int, ...]]:
        """The spellings in order, and whose they are."""
        pairs = sorted(
            (spelled, token) for token, spelled in enumerate(self.token_bytes) if spelled
        )
        return [spelled for spelled, _ in pairs], tuple(token for _, token in pairs)

    @cached_property
    def _ids_by_bytes(self) -> dict[bytes, tuple[int, ...]]:
        table: dict[bytes, tuple[int, ...]] = {}
        for token, spelling in enumerate(self.token_bytes):
            if spelling:
                table[spelling] = (*table.get(spelling, ()), token)
        return table


def end_ids(tokenizer: Any, model: Any, head_rows: int) -> frozenset[int]:
    """Return the tokens that end a text, of a tokenizer and a model of transformers.

    These are the tokenizer's end token and those of the configuration that are special tokens.

    Configurations often carry a default id that spells ordinary text in their own tokenizer.
    """
    stated = getattr(model.generation_config, "eos_token_id", None)
    if stated is None:
        stated = model.config.get_text_config().eos_token_id
    configured = {stated} if isinstance(stated, int) else set(stated or ())
    special = set(tokenizer.all_special_ids) | {
        token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special
    }
    own = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
    return frozenset(token for token in (configured & special) | own if 0 <= token < head_rows)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        length += 1
    return length


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidText from None


def _leading_special_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    encoding = tokenizer.encode("a", add_special_tokens=True)
    marks = encoding.special_tokens_mask
    length = next((place for place, mark in enumerate(marks) if not mark), len(marks))
    return tuple(encoding.ids[:length])


def _unknown_id(config: Mapping[str, Any], encoder: Tokenizer) -> int | None:
    model = config["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    unknown = model.get("unk_token")
    return None if unknown is None else encoder.token_to_id(unknown)


def _digest(config: Mapping[str, Any], bos: Sequence[int], eos: Iterable[int]) -> str:
    content = json.dumps([config, list(bos), sorted(eos)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:32]
