"""How a server ends: by a signal, with a lame duck, and when its engine crashes."""

import json
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.live_server import LiveServer, eventually, started

from bosal_client import Client, Unavailable

ENDLESS = [{"rule": "logit_bias", "ids": {"0": -1000}}]
EXPERIMENT = {
    "name": "asked",
    "variants": [
        {"key": "control", "recipe": "plain", "weight": 0.5, "control": True},
        {"key": "ruled", "recipe": "rules", "weight": 0.5},
    ],
    "metrics": [
        {"name": "liked", "kind": "proportion", "direction": "increase", "role": "primary"}
    ],
}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_signal_lets_a_running_stream_end(tiny_model: Path) -> None:
    with LiveServer(f"--model=tiny={tiny_model}") as live:
        with Client(live.address) as client, grpc.insecure_channel(live.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            watch, other = (health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2))
            for one in (watch, other):
                assert next(one).status == health_pb2.HealthCheckResponse.SERVING
            # One watcher's leaving does not silence the other.
            other.cancel()
            stream = client.stream("Hi", max_tokens=400, overrides=ENDLESS)
            assert stream.started.max_tokens == 400
            live.process.send_signal(signal.SIGTERM)
            # The watcher learns first; whoever calls now is sent elsewhere.
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(Unavailable):
                client.generate("Hi", timeout=5)
            assert len(stream.result().choices[0].token_ids) == 400
        assert live.wait() == 0, live.errors()
        assert "Traceback" not in live.errors()


def test_an_end_leaves_a_closed_database_that_has_everything(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Python itself is not taken apart any more; what is ours is ended before."""
    file = tmp_path / "bosal.db"
    with LiveServer(f"--model=tiny={tiny_model}", f"--database={file}") as live:
        with Client(live.address) as client:
            client.experiments.create(EXPERIMENT)
            client.experiments.start("asked")
            for unit in range(20):
                client.generate("Hi", experiment="asked", unit=f"user-{unit}", max_tokens=1)
        assert live.stop() == 0, live.errors()
    assert [one.name for one in tmp_path.glob("bosal.db*")] == ["bosal.db"], "no log beside it"
    with closing(sqlite3.connect(file)) as database:
        (exposures,) = database.execute("SELECT count(*) FROM experiment_exposures").fetchone()
    assert exposures == 20


def test_a_second_signal_ends_the_wait(tiny_model: Path) -> None:
    with (
        LiveServer(f"--model=tiny={tiny_model}") as live,
        Client(live.address) as client,
        grpc.insecure_channel(live.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        streams = [client.stream("Hi", max_tokens=450, overrides=ENDLESS) for _ in range(8)]
        for stream in streams:
            assert stream.started
        live.process.send_signal(signal.SIGINT)
        # It has been heard: two signals that are pending are one.
        assert next(watch).status == NOT_SERVING
        live.process.send_signal(signal.SIGINT)
        assert live.wait() == 0
        assert "calls were still running; they are cancelled" in live.errors()
        assert "Traceback" not in live.errors()


def test_a_sigterm_sent_twice_is_one(tiny_model: Path) -> None:
    """As by `timeout`, which signals the process and then its group."""
    with LiveServer(f"--model=tiny={tiny_model}") as live, Client(live.address) as client:
        stream = client.stream("Hi", max_tokens=400, overrides=ENDLESS)
        assert stream.started
        live.process.send_signal(signal.SIGTERM)
        live.process.send_signal(signal.SIGTERM)
        assert len(stream.result().choices[0].token_ids) == 400
        assert live.wait() == 0, live.errors()
        assert "cancelled" not in live.errors()


def test_a_lame_duck_still_takes_calls(tiny_model: Path) -> None:
    with (
        LiveServer(f"--model=tiny={tiny_model}", "--lame-duck-seconds=60") as live,
        Client(live.address) as client,
        grpc.insecure_channel(live.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        live.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert client.generate("Hi", max_tokens=2, timeout=10).choices
        # Whoever is at the keyboard need not wait for it.
        live.process.send_signal(signal.SIGINT)
        assert live.wait() == 0, live.errors()


def test_a_crashed_engine_answers_everybody_and_ends_the_process(tiny_model: Path) -> None:
    with (
        LiveServer(f"--model=tiny={tiny_model}", module="tests.server.rpc.crashing_server") as live,
        Client(live.address) as client,
        grpc.insecure_channel(live.address) as channel,
        ThreadPoolExecutor(4) as threads,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == SERVING
        streams = [
            client.stream("Hi", max_tokens=400, overrides=ENDLESS, seed=seed) for seed in range(4)
        ]
        failures = list(threads.map(lambda stream: _failure(stream.result), streams))
        assert all(isinstance(error, Unavailable) for error in failures), failures
        assert next(watch).status == NOT_SERVING
        assert live.wait() == 70
        assert "the engine crashed" in live.errors()
        assert "the device is gone" in live.errors()


def test_a_sighup_while_models_load_waits(tiny_model: Path, tmp_path: Path) -> None:
    """By itself it would end the process, and no supervisor takes that for a failure."""
    options = (f"--model=tiny={tiny_model}", "--runner=torch", "--port=0", "--metrics-port=0")
    log = tmp_path / "errors"
    with log.open("w") as stderr:
        process = started("serve", *options, stderr=stderr)
    assert process.stdout is not None
    with process.stdout:
        # The first line comes once keys were read and before a model was.
        while "database" not in log.read_text():
            assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline().startswith("ready at"), log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, log.read_text()
    assert "SIGHUP: reading recipes again" in log.read_text()


def test_sighup_reads_recipes_too(tiny_model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("rules: [{rule: top_k, k: 1}]\n")
    options = (f"--recipes={tmp_path}", "--log-format=json")
    with LiveServer(f"--model=tiny={tiny_model}", *options) as live, Client(live.address) as client:
        recipe.write_text("rules: [{rule: top_k, k: 7}]\n")
        live.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: _top_k(client) == 7)
        recipe.write_text("rules: [{rule: top_k, k: -7}]\n")
        live.process.send_signal(signal.SIGHUP)
        reloads = "bosal_config_reloads_total"
        assert eventually(lambda: live.metric(reloads, source="recipes", outcome="refused") >= 1)
        assert live.metric(reloads, source="recipes", outcome="read") >= 1
        assert live.metric("bosal_config_last_reload_successful", source="recipes") == 0
        assert _top_k(client) == 7
        assert live.stop() == 0
        records = [json.loads(line) for line in live.errors().splitlines()]
    messages = {record["message"] for record in records}
    assert "SIGHUP: reading recipes again" in messages
    assert any("read the folder's recipes again" in message for message in messages)
    assert any("mine.yaml" in message and "rules[0].k" in message for message in messages)
    assert all({"time", "level", "logger"} <= record.keys() for record in records)


def _failure(call: object) -> Exception | None:
    assert callable(call)
    try:
        call()
    except Exception as error:
        return error
    return None


def _top_k(client: Client) -> object:
    (rule,) = client.recipe("mine").document["rules"]
    return rule["k"]
