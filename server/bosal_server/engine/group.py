"""A choice as the scheduler sees it: one group of coupled streams."""

from collections.abc import Sequence
from enum import Enum, auto

from bosal_decoding.nudging import Nudger
from bosal_decoding.phrases import PhraseBook
from bosal_decoding.plan import CompiledRule
from bosal_server.engine.scoring import Scoring


class GroupState(Enum):
    """Where a group is in its life."""

    WAITING = auto()  # in the queue
    PREFILLING = auto()  # admitted, no token yet
    DECODING = auto()  # every stream is in every step
    GONE = auto()  # finished, failed or cancelled: holds nothing


class Stream:
    """One sequence of keys and values on one model: a prompt of its own, the group's output."""

    __slots__ = (
        "blocks",
        "cache_salt",
        "cached_tokens",
        "group",
        "hashes",
        "model",
        "num_computed",
        "num_forwards",
        "num_pinned_tokens",
        "num_published",
        "prompt",
        "reserved",
        "shares_scaffold",
    )

    def __init__(
        self,
        model: str,
        prompt: Sequence[int],
        num_pinned_tokens: int = 0,
        *,
        cache_salt: bytes = b"",
        shares_scaffold: bool = False,
    ) -> None:
        if not prompt:
            raise ValueError("a stream needs at least one prompt token")
        self.model = model
        self.prompt = tuple(prompt)  # the request's own if it is one: choices share it
        self.num_pinned_tokens = num_pinned_tokens
        self.cache_salt = cache_salt
        self.shares_scaffold = shares_scaffold
        self.group: StreamGroup
        self.hashes: list[bytes] = []  # of the prompt's full blocks
        self.blocks: list[int] = []
        self.reserved = 0  # blocks promised and not yet allocated
        self.num_computed = 0  # tokens whose keys and values are in the blocks
        self.num_forwards = 0  # tokens that went through the model, those taken back included
        self.num_published = 0  # leading blocks that need no publishing any more
        self.cached_tokens = 0  # prompt tokens this stream did not have to compute

    def __len__(self) -> int:
        return len(self.prompt) + len(self.output)

    @property
    def output(self) -> list[int]:
        """The tokens behind the prompt."""
        return self.group.output

    @property
    def max_tokens(self) -> int:
        """How many of them there may be."""
        return self.group.max_tokens

    @property
    def num_unsalted_tokens(self) -> int:
        """Leading tokens whose keys and values anybody may find."""
        return self.num_pinned_tokens if self.shares_scaffold else 0

    @property
    def num_missing(self) -> int:
        """Tokens that must be computed before the next one can be drawn."""
        return len(self) - self.num_computed

    @property
    def is_parked(self) -> bool:
        """Only the last token is missing."""
        return self.num_missing == 1

    def tokens(self, begin: int, end: int) -> list[int]:
        """Return tokens of prompt and output, seen as one sequence."""
        num_prompt = len(self.prompt)
        if begin >= num_prompt:
            return self.output[begin - num_prompt : end - num_prompt]
        if end <= num_prompt:
            return list(self.prompt[begin:end])
        return [*self.prompt[begin:], *self.output[: end - num_prompt]]


class GuideStream(Stream):
    """A guide's sequence: its own prompt, and the answer in tokens of its own."""

    __slots__ = ("_max_tokens", "own")

    def __init__(
        self,
        model: str,
        prompt: Sequence[int],
        num_pinned_tokens: int,
        max_tokens: int,
        *,
        cache_salt: bytes = b"",
        shares_scaffold: bool = False,
    ) -> None:
        super().__init__(
            model,
            prompt,
            num_pinned_tokens,
            cache_salt=cache_salt,
            shares_scaffold=shares_scaffold,
        )
        self.own: list[int] = []
        self._max_tokens = max_tokens

    @property
    def output(self) -> list[int]:
        return self.own

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    def rewrite(self, token_ids: Sequence[int]) -> None:
        """Let the answer read so; what was computed of it and still stands is kept."""
        same = 0
        for old, new in zip(self.own, token_ids, strict=False):
            if old != new:
                break
            same += 1
        self.own = list(token_ids)
        self.num_computed = min(self.num_computed, len(self.prompt) + same, len(self) - 1)


class StreamGroup:
    """The unit of admission, scheduling and cancellation: one choice's coupled streams.

    A guide, the last stream of a group that has one, is in a step or the others are, never both.
    """

    __slots__ = (
        "choice",
        "guide",
        "is_guiding",
        "nudger",
        "key_id",
        "label",
        "max_tokens",
        "models",
        "num_rows",
        "num_shadows",
        "output",
        "phrases",
        "priority",
        "request_id",
        "rules",
        "scoring",
        "slot",
        "state",
        "streams",
    )

    def __init__(
        self,
        request_id: str,
        choice: int,
        streams: Sequence[Stream],
        max_tokens: int,
        scoring: Scoring | None = None,
        rules: Sequence[CompiledRule] = (),
        *,
        priority: int = 1,
        key_id: str = "",
        label: str = "",
        num_shadows: int = 0,
    ) -> None:
        self.request_id = request_id
        self.choice = choice
        self.streams = tuple(streams)
        self.models = tuple(dict.fromkeys(stream.model for stream in streams))
        self.max_tokens = max_tokens
        self.priority = priority
        self.key_id = key_id
        self.output: list[int] = []
        # Rows of logits that each stream gives in its next step, of its last tokens.
        self.num_rows = 1
        # The tokens it is given instead of drawing them.
        self.scoring = scoring
        # Of its recipe, for the clock.
        self.rules = rules
        self.label = label
        # Plans that its draws are held against, if they are explained.
        self.num_shadows = num_shadows
        last = self.streams[-1]
        self.guide = last if isinstance(last, GuideStream) else None
        self.nudger: Nudger | None = None
        self.phrases: PhraseBook | None = None
        self.is_guiding = False
        self.slot = -1
        self.state = GroupState.WAITING
        for stream in self.streams:
            stream.group = self

    @property
    def coupled(self) -> tuple[Stream, ...]:
        """The streams that take the output's tokens."""
        return self.streams if self.guide is None else self.streams[:-1]

    @property
    def active(self) -> tuple[Stream, ...]:
        """The streams whose turn it is."""
        return self.streams[-1:] if self.is_guiding else self.coupled

    @property
    def cost(self) -> int:
        """Tokens it may take in the cache, in the worst case."""
        return sum(len(stream.prompt) + self.max_tokens for stream in self.streams)

    @property
    def is_parked(self) -> bool:
        """Every stream whose turn it is could give logits in the next step."""
        return all(stream.is_parked for stream in self.active)

    def ask(self, token_ids: Sequence[int]) -> None:
        """Turn to the guide, for whom the answer so far reads so."""
        assert self.guide is not None
        self.guide.rewrite(token_ids)
        self.is_guiding = True
        self.state = GroupState.DECODING if self.guide.is_parked else GroupState.PREFILLING

    def resume(self) -> None:
        """Turn to the other streams again; their last token is computed once more."""
        self.is_guiding = False
        self.state = GroupState.DECODING
        self._recompute_last()

    def commit(self, token_ids: Sequence[int]) -> None:
        """Append drawn or forced tokens to every stream."""
        self.output.extend(token_ids)

    def rollback(self, count: int) -> None:
        """Take back the last tokens; the last one kept is computed again."""
        del self.output[len(self.output) - count :]
        self._recompute_last()

    def _recompute_last(self) -> None:
        for stream in self.coupled:
            stream.num_computed = min(stream.num_computed, len(stream) - 1)
