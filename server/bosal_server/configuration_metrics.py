"""Whether the files a server was told to read are in force, and how long certificates last."""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge


class Source(StrEnum):
    """What is read again while a server runs."""

    KEYS = "keys"
    CERTIFICATES = "certificates"
    RECIPES = "recipes"


class Ending(Protocol):
    """What is good until a moment."""

    @property
    def ends(self) -> datetime: ...


class ConfigurationMetrics:
    """The series of what is read again."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._reloads = Counter(
            "bosal_config_reloads_total",
            "Times something was read again while the server ran.",
            ("source", "outcome"),
            registry=registry,
        )
        self._is_current = Gauge(
            "bosal_config_last_reload_successful",
            "1 if what is served is what the files hold; 0 if they were wrong when last read.",
            ("source",),
            registry=registry,
        )
        self._read_at = Gauge(
            "bosal_config_last_reload_success_timestamp_seconds",
            "When the files were last read and put in force, at the start too.",
            ("source",),
            registry=registry,
        )
        self._ends = Gauge(
            "bosal_certificate_expiry_timestamp_seconds",
            "When the certificates that are in force end.",
            ("certificate",),
            registry=registry,
        )

    def note_loaded(self, source: Source) -> None:
        """Note that something was read at the start, and may be again."""
        for outcome in ("read", "refused"):
            self._reloads.labels(source, outcome)
        self._note_read(source)

    def note_reload(self, source: Source, is_read: bool) -> None:
        """Note that something was read again, or refused because it is wrong."""
        self._reloads.labels(source, "read" if is_read else "refused").inc()
        if is_read:
            self._note_read(source)
        else:
            self._is_current.labels(source).set(0)

    def watch_certificates(self, read: Callable[[], Mapping[str, Ending]]) -> None:
        """Ask for the ends of the certificates in force whenever they are scraped."""
        for name in read():
            self._ends.labels(name).set_function(partial(_end, read, name))

    def _note_read(self, source: Source) -> None:
        self._is_current.labels(source).set(1)
        self._read_at.labels(source).set_to_current_time()


def _end(read: Callable[[], Mapping[str, Ending]], name: str) -> float:
    return read()[name].ends.timestamp()
