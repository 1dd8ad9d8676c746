"""One live server, shared by the tests of the wire and of the clients."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from tests.live_server import LiveServer, serving

from bosal_client import Client

# The same examples every time, however slow the machine: near a float's last digit a new one may
# prove nothing. HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold a long test, or one worker ends with it while others idle."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two layers with a tokenizer of 400 tokens and a context of 512."""
    from tests.server.conftest import TINY_LLAMA, save_model

    return save_model(tmp_path_factory.mktemp("tiny"), "llama", **TINY_LLAMA)


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Iterator[LiveServer]:
    with serving(tiny_model) as live:
        yield live


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected
