"""As many connections as the process may open files, and no more."""

import resource

import pytest

from bosal_server import file_limit
from bosal_server.config import InvalidConfig


class Limits:
    """The process's limit of open files, kept here."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self, _: int) -> tuple[int, int]:
        return self.now

    def set(self, _: int, limits: tuple[int, int]) -> None:
        self.now = limits


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    kept = Limits(1024, 4096)
    monkeypatch.setattr(resource, "getrlimit", kept.get)
    monkeypatch.setattr(resource, "setrlimit", kept.set)
    return kept


def test_a_server_takes_what_the_hard_limit_leaves(limits: Limits) -> None:
    assert file_limit.connections(None) == 4096 - 256
    limits.now = (1024, 1 << 20)
    assert file_limit.connections(None) == 10_000
    limits.now = (1024, resource.RLIM_INFINITY)
    assert file_limit.connections(None) == 10_000
    assert file_limit.connections(1_000_000) == 1_000_000
    limits.now = (100, 100)
    assert file_limit.connections(None) == 1


def test_more_than_the_process_may_open_is_refused_by_name(limits: Limits) -> None:
    assert file_limit.connections(3840) == 3840
    with pytest.raises(InvalidConfig, match="max_connections: 3841 need 4097 .* 4096"):
        file_limit.connections(3841)


def test_the_soft_limit_is_raised_to_what_is_needed_and_never_lowered(limits: Limits) -> None:
    file_limit.raise_limit(100)
    assert limits.now == (1024, 4096)
    file_limit.raise_limit(2000)
    assert limits.now == (2256, 4096)
    file_limit.raise_limit(10_000)
    assert limits.now == (4096, 4096)
    limits.now = (1024, resource.RLIM_INFINITY)
    file_limit.raise_limit(10_000)
    assert limits.now == (10_256, resource.RLIM_INFINITY)
