"""`bosal_server` without its guards: nothing is authorised, leased, counted or observed.

Made for `benchmarks.operations` alone, to measure what the guards cost.
"""

import runpy
from collections.abc import Sequence
from typing import Any

from bosal_server.metrics import Metrics
from bosal_server.security.access import Access
from bosal_server.security.caller import ANYBODY, Caller
from bosal_server.security.quota import QuotaLedger


class _NoLease:
    def end(self, tokens: int) -> None:
        pass


def _lease(self: QuotaLedger, caller: Caller, *, choices: int, tokens: int) -> Any:
    return _NoLease()


def _caller(self: Access, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> Caller:
    return ANYBODY


def _nothing(self: Any, *_: object) -> None:
    pass


Access.caller = _caller  # type: ignore[method-assign]
QuotaLedger.lease = _lease  # type: ignore[method-assign]
for name in ("step", "prefix", "finished"):
    setattr(Metrics, name, _nothing)
runpy.run_module("bosal_server", run_name="__main__")
