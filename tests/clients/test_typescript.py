"""The TypeScript client: its own tests against live servers, its stubs, its README."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.live_server import LiveServer, serving

from bosal_client import Client
from bosal_client.experiments import Outcome
from bosal_server.security.caller import Scope
from bosal_server.security.keys import make_key, save_keys

PACKAGE = Path(__file__).parents[2] / "clients/typescript"
INSTALLED = PACKAGE / "node_modules/.package-lock.json"
SEEDS = (2**63 - 1, -(2**63))


@pytest.fixture(scope="module")
def package() -> Path:
    """The package with what it depends on; skips where that cannot be had."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    lock = PACKAGE / "package-lock.json"
    if not INSTALLED.exists() or INSTALLED.stat().st_mtime < lock.stat().st_mtime:
        try:
            command = ["npm", "ci", "--fetch-retries=1"]
            subprocess.run(command, cwd=PACKAGE, capture_output=True, check=True, timeout=200)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"what it depends on could not be installed: {error}: {error.stderr!r}")
        INSTALLED.touch()
    return PACKAGE


@pytest.fixture(scope="module")
def built(package: Path) -> Path:
    """The package and its tests, type-checked and compiled, the README's snippets among them."""
    shutil.rmtree(package / "build", ignore_errors=True)
    snippets = package / "build/readme"
    snippets.mkdir(parents=True)
    text = (package / "README.md").read_text()
    for number, snippet in enumerate(re.findall(r"^```ts\n(.*?)^```", text, re.M | re.S)):
        (snippets / f"snippet{number}.ts").write_text(snippet)
    for project in (".", "tests"):
        done = subprocess.run(
            ["node_modules/.bin/tsc", "--project", project],
            cwd=package,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout
    return package


@pytest.fixture(scope="module")
def secured(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A server that wants TLS and a key: its address and what opens it."""
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    pair = authority.issue_cert("localhost")
    pair.private_key_pem.write_to_path(str(folder / "server.key"))
    pair.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "stranger.pem"))
    # For a server of the tests' own.
    for name, owner in (("own", "127.0.0.1"), ("client", "client@example.org")):
        pair = authority.issue_cert(owner)
        pair.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        pair.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    key, entry = make_key("generate", [Scope.GENERATE])
    save_keys(folder / "keys.json", [entry])
    options = (
        f"--key-file={folder / 'keys.json'}",
        f"--tls-certificate={folder / 'server.pem'}",
        f"--tls-key={folder / 'server.key'}",
        "--host=localhost",
    )
    with serving(tiny_model, *options) as server:
        yield {
            "server": server.address,
            "apiKey": key,
            "tlsCa": str(folder / "ca.pem"),
            "stranger": str(folder / "stranger.pem"),
            "serverCertificate": str(folder / "own.pem"),
            "serverKey": str(folder / "own.key"),
            "clientCertificate": str(folder / "client.pem"),
            "clientKey": str(folder / "client.key"),
        }


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def said(value: Any) -> Any:
    """A value of the Python client as JSON has it, fields as TypeScript names them."""
    match value:
        case float() if value in (float("inf"), float("-inf")):
            return str(value)
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat(timespec="milliseconds")
        case Mapping():
            return {key: said(item) for key, item in value.items()}
        case list() | tuple():
            return [said(item) for item in value]
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)]
        return {camel(name): said(getattr(value, name)) for name in fields}
    return value


def told(client: Client) -> dict[str, Any]:
    """What the Python client says of the server, for the TypeScript client to say alike."""
    experiments = client.experiments
    variants = [
        {"key": "control", "recipe": "plain", "weight": 0.5, "control": True},
        {"key": "ruled", "recipe": "rules", "weight": 0.5},
    ]
    metric = {"name": "liked", "kind": "proportion", "direction": "increase", "role": "primary"}
    experiments.create({"name": "told", "variants": variants, "metrics": [metric]})
    experiments.start("told")
    answer = client.generate("Hi", experiment="told", unit="u", max_tokens=2)
    assert answer.started.assignment is not None
    exposure = answer.started.assignment.exposure_id
    experiments.record("told", [Outcome(name="liked", value=True, exposure_id=exposure)])
    generations = [
        client.generate("Hello", seed=seed, max_tokens=8, logprobs=2, explain=True)
        for seed in SEEDS
    ]
    return {
        "generations": [{**said(one), "seed": str(one.started.seed)} for one in generations],
        "serverInfo": said(client.server_info()),
        "recipes": said(client.recipes()),
        "rules": said(client.rules()),
        "validation": said(client.validate({"rules": [{"rule": "top_k", "k": 2}]})),
        "tokens": said(client.tokenize("Hello")),
        "score": said(client.score("Hello", "there", logprobs=1)),
        "report": said(experiments.report("told")),
    }


def test_its_own_tests_pass(
    built: Path, server: LiveServer, client: Client, secured: dict[str, str], tmp_path: Path
) -> None:
    told_file = tmp_path / "told.json"
    told_file.write_text(json.dumps(told(client)))
    environment = {
        **os.environ,
        "BOSAL_TEST_SERVER": server.address,
        "BOSAL_TEST_METRICS": server.metrics_url,
        "BOSAL_TEST_SECURED": json.dumps(secured),
        "BOSAL_TEST_TOLD": str(told_file),
    }
    command = ["node", "--test", "--test-reporter=tap", "build/js/tests/all.test.js"]
    done = subprocess.run(command, cwd=built, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.search(r"^# pass (\d+)$", done.stdout, re.M)
    assert ran is not None
    written = [file.read_text() for file in built.glob("tests/*.test.ts")]
    assert int(ran[1]) == sum(len(re.findall(r"^test\(", text, re.M)) for text in written)


def test_what_the_readme_shows_runs(built: Path, server: LiveServer) -> None:
    environment = {**os.environ, "BOSAL_SERVER": server.address}
    snippets = sorted(built.glob("build/js/build/readme/*.js"))
    assert len(snippets) > 1
    for snippet in snippets:
        command = ["node", str(snippet)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_checked_in_stubs_are_what_the_generator_makes(package: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(package / "stubs.py"), str(tmp_path)], check=True)
    checked_in = package / "src/gen"

    def modules(folder: Path) -> dict[Path, str]:
        return {file.relative_to(folder): file.read_text() for file in folder.rglob("*.ts")}

    assert modules(tmp_path) == modules(checked_in), "run `make stubs`"
