"""`bosal_server`, but SIGUSR1 sets the clock it dates records by a day forward, SIGUSR2 two back.

Deadlines, queues and quotas are on the monotonic clock; gRPC compares two readings of one clock.
"""

import importlib
import runpy
import signal
import time
from typing import Final

_DAY: Final = 86_400
_true, _true_ns = time.time, time.time_ns
_offset = 0


def _jump(number: int, _: object) -> None:
    global _offset
    _offset += _DAY if number == signal.SIGUSR1 else -2 * _DAY


signal.signal(signal.SIGUSR1, _jump)
signal.signal(signal.SIGUSR2, _jump)
# Kept by those who date records, when they are imported; nobody else is to see it jump.
time.time = lambda: _true() + _offset
time.time_ns = lambda: _true_ns() + _offset * 10**9
for dating in ("recipe_archive", "experiments.manager"):
    importlib.import_module(f"bosal_server.{dating}")
time.time, time.time_ns = _true, _true_ns
runpy.run_module("bosal_server", run_name="__main__")
