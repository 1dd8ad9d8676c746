"""What each key has in use and what it has left this minute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from bosal_server.security.caller import Caller
from bosal_server.security.errors import QuotaExceeded, QuotaTooSmall

# When a running choice of the same key may have ended, nobody knows.
_RETRY_CHOICES_SECONDS = 1.0
_MINUTE = 60.0


class _Account:
    """One key's choices in use, and its tokens: a bucket that fills up in a minute."""

    __slots__ = ("choices", "tokens", "updated")

    def __init__(self, tokens: float, now: float) -> None:
        self.choices = 0
        self.tokens = tokens
        self.updated = now


class Lease:
    """What one request holds of its key's quota; give it back once, whatever happened."""

    __slots__ = ("_account", "_choices", "_limit", "_tokens")

    def __init__(
        self, account: _Account | None, choices: int, tokens: int, limit: int | None
    ) -> None:
        self._account = account
        self._choices = choices
        self._tokens = tokens
        self._limit = limit

    def end(self, used_tokens: int) -> None:
        """Return the choices, and the tokens that were set aside and not used."""
        account, self._account = self._account, None
        if account is None:
            return
        account.choices -= self._choices
        if self._limit is not None:
            account.tokens = min(account.tokens + self._tokens - used_tokens, self._limit)


class Spending:
    """What a call turns out to use; told before it ends."""

    __slots__ = ("tokens",)

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens


class QuotaLedger:
    """Belongs to the event loop; needs no lock."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}

    def check(self, caller: Caller) -> None:
        """Refuse a key that has nothing left, before any work.

        Raises:
            QuotaExceeded: says when it will have.
        """
        rate = caller.tokens_per_minute
        if rate is not None:
            self._need(self._account(caller), 1, rate)

    @contextmanager
    def spending(self, caller: Caller, guess: int) -> Iterator[Spending]:
        """Count a call whose tokens are known only afterwards; until then it counts as a guess.

        So it does for good if its caller gives it up; one that is refused counts nothing.

        Raises:
            QuotaExceeded: the key has nothing left.
        """
        self.check(caller)
        self.spend(caller, guess)
        spending = Spending(guess)
        try:
            yield spending
        except Exception:
            spending.tokens = 0
            raise
        finally:
            self.spend(caller, spending.tokens - guess)

    def spend(self, caller: Caller, tokens: int) -> None:
        """Take what a call has used.

        It may be more than the key had: then time has to make up for it before the next call.
        """
        if caller.tokens_per_minute is not None:
            self._account(caller).tokens -= tokens

    def lease(self, caller: Caller, *, choices: int, tokens: int) -> Lease:
        """Set aside the most a request can use.

        Raises:
            QuotaTooSmall: the key could never have so much.
            QuotaExceeded: it has not now; says when it may.
        """
        most, rate = caller.max_choices, caller.tokens_per_minute
        if most is None and rate is None:
            return Lease(None, 0, 0, None)
        if most is not None and choices > most:
            raise QuotaTooSmall("choices at once", most, choices, "num_choices")
        if rate is not None and tokens > rate:
            raise QuotaTooSmall("tokens per minute", rate, tokens, "max_tokens")
        account = self._account(caller)
        if most is not None and account.choices + choices > most:
            raise QuotaExceeded("choices at once", most, _RETRY_CHOICES_SECONDS)
        if rate is not None:
            self._need(account, tokens, rate)
            account.tokens -= tokens
        account.choices += choices
        return Lease(account, choices, tokens, rate)

    def _account(self, caller: Caller) -> _Account:
        """Return a key's account as it is now."""
        rate, now = caller.tokens_per_minute, self._clock()
        account = self._accounts.get(caller.key_id)
        if account is None:
            account = self._accounts[caller.key_id] = _Account(rate or 0, now)
        elif rate is not None:
            gained = (now - account.updated) * rate / _MINUTE
            account.tokens = min(account.tokens + gained, rate)
            account.updated = now
        return account

    def _need(self, account: _Account, tokens: int, rate: int) -> None:
        if tokens > account.tokens:
            missing = tokens - account.tokens
            raise QuotaExceeded("tokens per minute", rate, missing * _MINUTE / rate)
