"""Who waits, shared between the engine's thread and those that submit."""

import math
from collections import Counter, deque
from collections.abc import Callable
from threading import Lock
from time import monotonic

from bosal_server.engine.active_request import ActiveRequest
from bosal_server.errors import DeadlineUnreachable, QueueFull, QueueTimeout

_MIN_RETRY_SECONDS = 0.1
_MAX_RETRY_SECONDS = 30.0
# Weight of the newest second in what is known of the engine's speed.
_SMOOTHING = 0.5
_MIN_INTERVAL = 0.05
# Of the time a request may wait, what it may be expected to: speeds change.
_EXPECTED_SHARE = 0.8
# Requests that show what comes after the wait, how much more than their longest it is taken to
# be, and the most of the limit: one long prompt shall not empty the room.
_NUM_STARTS = 32
_START_MARGIN = 1.25
_MAX_START_SHARE = 0.5
# There is a crowd while so many requests are turned away in so many seconds.
_CROWD = 20
_CROWD_SECONDS = 1.0


class WaitingRoom:
    """Bounds requests between submission and admission, and knows how quickly they are admitted.

    When it is full, whoever takes up most of it makes room: its last request leaves for the first
    of a key that takes up less, so no key can keep the others out.
    """

    def __init__(
        self,
        max_waiting: int,
        max_waiting_tokens: int | None = None,
        max_queue_seconds: float | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._max_waiting = max_waiting
        self._max_tokens = max_waiting_tokens
        self._max_seconds = max_queue_seconds
        self._clock = clock
        self._lock = Lock()
        self._waiting: dict[ActiveRequest, None] = {}  # in order of arrival
        self._num_tokens = 0
        self._tokens_by_priority: Counter[int] = Counter()
        self._num_by_key: Counter[str] = Counter()
        self._tokens_by_key: Counter[str] = Counter()
        # Tokens admitted per second while others waited, smoothed; None: not yet known.
        self._rate: float | None = None
        self._admitted_tokens = 0
        self._measured_from: float | None = None
        self._empty_from = -math.inf
        # From admission to the first token, of those that were last.
        self._starts: deque[float] = deque(maxlen=_NUM_STARTS)
        self._longest_start = 0.0
        # When the last that were turned away came.
        self._turned_away: deque[float] = deque(maxlen=_CROWD)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def num_tokens(self) -> int:
        return self._num_tokens

    @property
    def is_crowded(self) -> bool:
        """Whether many have been turned away just now."""
        times = self._turned_away
        return len(times) == _CROWD and self._clock() - times[0] < _CROWD_SECONDS

    @property
    def max_seconds(self) -> float | None:
        """How long anybody may wait to have a first token within the limit; None: there is none."""
        if self._max_seconds is None:
            return None
        start = min(_START_MARGIN * self._longest_start, _MAX_START_SHARE * self._max_seconds)
        return self._max_seconds - start

    def check(self, *, key_id: str, priority: int, deadline: float | None) -> None:
        """Refuse, before any work for it, what could not wait however small it is.

        Raises:
            QueueFull, DeadlineUnreachable: as `enter` would.
        """
        with self._lock:
            self._check_time(priority, deadline)
            self._make_room(key_id, cost=1)

    def enter(self, active: ActiveRequest) -> ActiveRequest | None:
        """Let a request wait; return the one that has to leave for it, which is out already.

        Raises:
            QueueFull: there is no room, or it would wait longer than anybody may.
            DeadlineUnreachable: it would not be admitted before its deadline.
        """
        with self._lock:
            request = active.request
            self._check_time(request.priority, request.deadline)
            displaced = self._make_room(request.key_id, active.cost)
            if displaced is not None:
                self._take_out(displaced)
            self._waiting[active] = None
            self._num_tokens += active.cost
            self._tokens_by_priority[request.priority] += active.cost
            self._num_by_key[request.key_id] += 1
            self._tokens_by_key[request.key_id] += active.cost
            if len(self._waiting) == 1 and self._clock() - self._empty_from >= _MIN_INTERVAL:
                # There was room: what was admitted meanwhile says nothing.
                self._measured_from, self._admitted_tokens = self._clock(), 0
            return displaced

    def leave(self, active: ActiveRequest, *, was_admitted: bool) -> None:
        """Note that a request waits no more."""
        with self._lock:
            if active not in self._waiting:
                return
            self._take_out(active)
            if was_admitted:
                self._measure(active.cost)
            if not self._waiting:
                self._empty_from = self._clock()

    def note_start(self, seconds: float) -> None:
        """Note what a request took from its admission to its first token."""
        self._starts.append(seconds)
        self._longest_start = max(self._starts)

    def timeout(self, waited: float) -> QueueTimeout | None:
        """Return why a request that waits shall wait no longer; None: it may."""
        longest = self.max_seconds
        if self._max_seconds is None or longest is None or waited < longest:
            return None
        return QueueTimeout(self._max_seconds, waited, self.retry_after())

    def retry_after(self) -> float:
        """Return the seconds after which half of those that wait should have moved on."""
        with self._lock:
            return self._retry_after()

    def _check_time(self, priority: int, deadline: float | None) -> None:
        wait = self._expected_wait(priority)
        if deadline is not None and wait and self._clock() + wait >= deadline:
            self._turned_away.append(self._clock())
            raise DeadlineUnreachable(wait, self._retry_after())
        longest = self.max_seconds
        if longest is not None and wait > _EXPECTED_SHARE * longest:
            self._turned_away.append(self._clock())
            raise QueueFull(
                waiting=f"requests for {wait:.1f} s",
                limit=f"{self._max_seconds:g} s",
                retry_after=self._retry_after(),
            )

    def _make_room(self, key: str, cost: int) -> ActiveRequest | None:
        if len(self._waiting) < self._max_waiting and self._has_tokens(cost, self._num_tokens):
            return None
        largest = max(self._num_by_key, key=self._part, default=key)
        mine = self._part(key) + self._size(1, cost)
        if largest != key and mine < self._part(largest):
            last = next(one for one in reversed(self._waiting) if one.request.key_id == largest)
            if self._has_tokens(cost, self._num_tokens - last.cost):
                return last
        self._turned_away.append(self._clock())
        raise QueueFull(
            waiting=f"{len(self._waiting)} requests of {self._num_tokens} tokens",
            limit=f"{self._max_waiting} requests"
            + (f" and {self._max_tokens} tokens" if self._max_tokens is not None else ""),
            retry_after=self._retry_after(),
        )

    def _part(self, key: str) -> float:
        """Return how much of the room a key takes up."""
        return self._size(self._num_by_key[key], self._tokens_by_key[key])

    def _size(self, requests: int, tokens: int) -> float:
        return max(requests / self._max_waiting, tokens / (self._max_tokens or float("inf")))

    def _has_tokens(self, cost: int, taken: int) -> bool:
        # An empty room takes anything that the engine can.
        return self._max_tokens is None or not taken or taken + cost <= self._max_tokens

    def _take_out(self, active: ActiveRequest) -> None:
        del self._waiting[active]
        request = active.request
        self._num_tokens -= active.cost
        self._tokens_by_priority[request.priority] -= active.cost
        self._num_by_key[request.key_id] -= 1
        self._tokens_by_key[request.key_id] -= active.cost
        if not self._num_by_key[request.key_id]:
            del self._num_by_key[request.key_id], self._tokens_by_key[request.key_id]

    def _expected_wait(self, priority: int) -> float:
        """Estimate from those that go first; 0 while the engine's speed is not known."""
        if not self._rate:
            return 0.0
        ahead = sum(
            tokens for other, tokens in self._tokens_by_priority.items() if other >= priority
        )
        return ahead / self._rate

    def _measure(self, tokens: int) -> None:
        """Learn from an admission what those before it took to make way for it.

        Choices that began together end together, so admissions come in bursts: all of one have
        the time until the next.
        """
        now = self._clock()
        if self._measured_from is not None and now - self._measured_from >= _MIN_INTERVAL:
            if self._admitted_tokens:
                seconds = now - self._measured_from
                rate = self._admitted_tokens / seconds
                weight = 1 - (1 - _SMOOTHING) ** seconds
                self._rate = (
                    rate if self._rate is None else self._rate + weight * (rate - self._rate)
                )
            self._measured_from, self._admitted_tokens = now, 0
        self._admitted_tokens += tokens

    def _retry_after(self) -> float:
        wait = self._num_tokens / 2 / self._rate if self._rate else 1.0
        # As exact as it is said, so that many are told the same.
        return round(min(max(wait, _MIN_RETRY_SECONDS), _MAX_RETRY_SECONDS), 1)
