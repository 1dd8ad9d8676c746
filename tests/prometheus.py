"""A Prometheus that scrapes a server of the tests."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

PROGRAM = shutil.which("prometheus")


class Prometheus:
    """Answers queries about what it has scraped."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer; a wrong query is an HTTPError."""
        with urlopen(f"{self._url}{path}?{urlencode(parameters)}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """Return the series an expression has now."""
        data: Any = self.ask("query", query=expression)
        assert data["resultType"] == "vector"
        return list(data["result"])


@contextmanager
def scraping(metrics_url: str, rules: Path) -> Iterator[Prometheus]:
    """Scrape a server every second and evaluate rules."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = urlsplit(metrics_url).netloc
        (folder / "prometheus.yml").write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(rules)],
                    "scrape_configs": [
                        {"job_name": "bosal", "static_configs": [{"targets": [target]}]}
                    ],
                }
            )
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = subprocess.Popen(
            [
                PROGRAM,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=error",
            ]
        )
        try:
            prometheus = Prometheus(port)
            _wait(prometheus)
            yield prometheus
        finally:
            process.terminate()
            process.wait(30)


def _wait(prometheus: Prometheus) -> None:
    for _ in range(600):
        try:
            if prometheus.query("up == 1"):
                return
        except HTTPError as early:
            early.close()
        except URLError:
            pass
        time.sleep(0.1)
    raise AssertionError("Prometheus scraped nothing")
