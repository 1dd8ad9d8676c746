"""a full and a slow disk, a clock that jumps, clients that vanish, idle, or drip their headers."""

import asyncio
import signal
import sqlite3
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.harness import Report
from benchmarks.soak_parts import strangers
from benchmarks.soak_parts.kills import NAME, begin, check
from benchmarks.subject import Subject, endless, subject
from bosal.v1 import generation_pb2 as pb
from bosal.v1 import generation_pb2_grpc as pb_grpc
from bosal_client import AsyncClient, BosalError, Client, Unavailable
from bosal_client.experiments import Outcome

# Below a page of the store and its log: whatever would be written does not fit.
_FULL: Final = 4096
# Longer than the store waits for a disk before it says that it cannot be written.
_SLOW_SECONDS: Final = 6.0
_PATIENCE: Final = 60.0
# Headers of one connection; a thousand times what a call's may be.
_FLOOD_MIB: Final = 32
# The allocator's arenas have grown as far as they will by then.
_WARM_FLOODS, _FLOODS = 8, 12
# Connections beyond what the server holds.
_TOO_MANY: Final = 20


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--idle", type=int, default=10_000, help="idle connections")
    parser.add_argument("--slow", type=int, default=500, help="connections that drip headers")
    parser.add_argument("--vanishing", type=int, default=200, help="clients that vanish")


def run(options: Namespace, report: Report) -> None:
    """Let each happen to one server in turn; it has to serve, and lose nothing it acknowledged."""
    if options.quick:
        options.idle, options.slow, options.vanishing = 100, 20, 5
    slow_seconds, idle_seconds = (1.0, 2) if options.quick else (_SLOW_SECONDS, 20)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "bosal.db"
        begin(file, "rules")
        with (
            subject(
                f"--database={file}",
                "--write-stall-seconds=1",
                f"--max-connections={options.idle}",
                f"--max-connection-idle-seconds={idle_seconds}",
                "--log-level=WARNING",
                module="benchmarks.soak_parts.jumping_server",
            ) as server,
            Client(server.address) as client,
        ):
            store = _Store(client)
            store.record()
            _fill_disk(server, store, report)
            _slow_disk(file, store, slow_seconds, report)
            _jump(server, store)
            asyncio.run(_vanish(server.address, options.vanishing))
            leaked = server.leaked()
            report.figure("chaos_vanished", 2 * options.vanishing)
            _idle(server, options.idle, report)
            _drip(server, client, options.slow, report)
            _flood(server, client, report)
            store.record()
            leaked += server.leaked()
            server.check()
        # Raises if one is lost, or counted twice.
        check(file, store.acknowledged)
    report.figure("chaos_acknowledged", len(store.acknowledged))
    report.figure("chaos_refused", store.refused)
    report.figure("chaos_lost", 0)
    report.figure("leaked_after_chaos", leaked)
    assert not leaked, f"{leaked:g} choices, blocks and tasks are still held"


class _Store:
    """Exposes units and records their outcomes; knows what was acknowledged."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._number = 0
        self.acknowledged: set[str] = set()
        self.refused = 0

    def expose(self) -> str:
        """Ask under the experiment, which is served whatever the store does; "": no exposure."""
        self._number += 1
        answer = self._client.generate(
            "Name a river.", experiment=NAME, unit=f"u{self._number}", max_tokens=2, timeout=20
        )
        assert answer.choices
        assert answer.started.assignment is not None
        return answer.started.assignment.exposure_id

    def record(self) -> None:
        """Expose and record as soon as the store can be written."""
        until = time.monotonic() + _PATIENCE
        while not (exposure := self.expose()) or not self.keep(exposure):
            assert time.monotonic() < until, "the store did not recover"
            time.sleep(0.1)

    def keep(self, exposure: str) -> bool:
        """Record an outcome; False: it was refused, described, and may be sent again."""
        key = f"of {exposure}"
        outcome = Outcome(name="score", value=1.0, exposure_id=exposure, idempotency_key=key)
        try:
            (result,) = self._client.experiments.record(NAME, [outcome])
        except Unavailable as error:
            if error.reason != "DATABASE_UNAVAILABLE":
                raise
            self.refused += 1
            return False
        assert result.status in ("recorded", "duplicate"), result
        self.acknowledged.add(key)
        return True


def _fill_disk(server: Subject, store: _Store, report: Report) -> None:
    """Outcomes are refused while nothing can be written; all else is served."""
    exposure = store.expose()
    server.limit_files(_FULL)
    assert not store.keep(exposure), "an outcome was acknowledged with a full disk"
    served = [store.expose() for _ in range(5)]
    report.figure("chaos_full_disk_without_exposure", served.count(""))
    server.limit_files(None)
    store.record()
    # The same again is safe.
    assert store.keep(exposure)


def _slow_disk(file: Path, store: _Store, seconds: float, report: Report) -> None:
    """A commit that takes seconds delays who waits for it, and no generation."""
    slowest = 0.0
    until = time.monotonic() + seconds
    with _held(file):
        while time.monotonic() < until:
            start = time.perf_counter()
            store.expose()
            slowest = max(slowest, time.perf_counter() - start)
    store.record()
    report.figure("chaos_slow_disk_s", seconds)
    report.figure("chaos_slow_disk_slowest_s", slowest)
    if seconds == _SLOW_SECONDS:
        assert slowest < seconds, "a generation waited for the disk"


@contextmanager
def _held(file: Path) -> Iterator[None]:
    """Keep the store's turn to write, as a disk does that is busy with somebody else's commit."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def _jump(server: Subject, store: _Store) -> None:
    """A day forward, two back: requests, deadlines and the store do not mind."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGUSR1):
        exposure = store.expose()
        server.process.send_signal(number)
        # Both sides of the jump.
        assert store.keep(exposure)
        store.record()


async def _vanish(address: str, number: int) -> None:
    """Let half of the clients break off mid-stream and half fall silent, their sockets open."""
    for is_silent in (False, True):
        async with strangers.wire(address) as wire, AsyncClient(wire.address) as client:
            streams = [
                client.stream(f"number {index}", max_tokens=400, overrides=endless())
                for index in range(number)
            ]
            # Their first tokens, of as many as run at once.
            await anext(aiter(streams[0]))
            if is_silent:
                wire.fall_silent()
                await asyncio.sleep(2.0)
            wire.tear()
            for stream in streams:
                try:
                    await asyncio.wait_for(stream.result(), _PATIENCE)
                except BosalError:
                    continue


def _idle(server: Subject, number: int, report: Report) -> None:
    """Who is in is served while strangers fill the server; more are turned away, all leave."""
    with grpc.insecure_channel(server.address) as channel:
        # Keeps this connection from being an idle one.
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        next(watch)
        before = server.resident_mib()
        connections = strangers.idle(server.address, number + _TOO_MANY)
        try:
            start = time.perf_counter()
            spec = pb.GenerationSpec(instruction="Hi", max_tokens=2)
            generate = pb_grpc.GenerationServiceStub(channel).Generate
            assert generate(pb.GenerateRequest(spec=spec), timeout=_PATIENCE).choices
            report.figure("chaos_idle_answer_s", time.perf_counter() - start)
            report.figure("chaos_idle_connections", number)
            report.figure("chaos_idle_kib_each", (server.resident_mib() - before) * 1024 / number)
            turned_away = strangers.num_closed(connections)
            assert turned_away >= _TOO_MANY, f"{turned_away} connections were turned away"
            until = time.monotonic() + _PATIENCE
            while strangers.num_closed(connections) < len(connections):
                assert time.monotonic() < until, "idle connections are kept"
                time.sleep(0.1)
        finally:
            for connection in connections:
                connection.close()
        watch.cancel()
    with Client(server.address) as client:
        assert client.generate("Hi", max_tokens=2, timeout=_PATIENCE).choices


def _drip(server: Subject, client: Client, number: int, report: Report) -> None:
    """Headers that come slowly hold up nobody."""
    slow = strangers.Slowloris(server.address, number)
    try:
        for _ in range(20):
            slow.drip()
            assert client.generate("Hi", max_tokens=2, timeout=_PATIENCE).choices
    finally:
        slow.close()
    report.figure("chaos_slow_headers", number)


def _flood(server: Subject, client: Client, report: Report) -> None:
    """Headers without end are read, and not kept."""
    warm, floods = (0, 1) if report.options.quick else (_WARM_FLOODS, _FLOODS)
    size = 1 if report.options.quick else _FLOOD_MIB
    before = server.resident_mib()
    for number in range(floods):
        if number == warm:
            before = server.resident_mib()
        strangers.flood_headers(server.address, size * 2**20)
        assert client.generate("Hi", max_tokens=2, timeout=_PATIENCE).choices
    growth = server.resident_mib() - before
    sent = size * (floods - warm)
    report.figure("chaos_endless_headers_mib", sent)
    report.figure("chaos_endless_headers_rss_growth_mib", growth)
    if not report.options.quick:
        assert growth < sent / 4, f"{growth:.1f} MiB of headers are kept"
