"""One live server for the tests of the wire."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.live_server import LiveServer, serving

from bosal_client import Client


@pytest.fixture(scope="session")
def server(tiny_llama_folder: Path) -> Iterator[LiveServer]:
    with serving(tiny_llama_folder) as live:
        yield live


@pytest.fixture(scope="session")
def client(server: LiveServer) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected
