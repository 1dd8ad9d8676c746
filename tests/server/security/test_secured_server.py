"""A server with keys and TLS: nothing is reachable without a key of the right scope."""

import asyncio
import signal
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.live_server import LiveServer, eventually, serving

from bosal_client import (
    AsyncClient,
    Client,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
)
from bosal_client.errors import from_rpc_error
from bosal_client.identity import Identity
from bosal_server.security.access import OPEN, SCOPES
from bosal_server.security.caller import Scope
from bosal_server.security.keys import ApiKey, make_key, save_keys

PROMPT = "one two three four five six seven eight nine ten eleven twelve " * 6
ENDLESS = [{"rule": "logit_bias", "ids": {"0": -1000}}]
LONG = "one two three four " * 40
# Calls that take a processor's time without generating anything.
COUNTED: dict[str, Callable[[Client], object]] = {
    "tokenized text": lambda client: client.tokenize(LONG),
    "tokenized prompt": lambda client: client.tokenize(prompt=LONG),
    "validated recipe": lambda client: client.validate({"rules": []}),
    "wrong recipe": lambda client: client.validate({"rules": [{"rule": "nothing"}]}),
    "created recipe": lambda client: client.create_recipe({"name": "counted", "rules": []}),
}
STREAMED = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True, slots=True)
class Secured:
    """A running server and what opens it."""

    server: LiveServer
    key_file: Path
    entries: list[ApiKey]
    keys: dict[str, str]
    ca: Path
    folder: Path

    def credentials(self) -> grpc.ChannelCredentials:
        credentials = Identity(tls_ca=str(self.ca)).credentials()
        assert credentials is not None
        return credentials

    def client(self, key: str) -> Client:
        return Client(self.server.address, credentials=self.credentials(), api_key=key)

    def channel(self) -> grpc.Channel:
        return grpc.secure_channel(self.server.address, self.credentials())


@pytest.fixture(scope="module")
def secured(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    _issue(authority, folder)
    keys, entries = {}, []
    for scope in Scope:
        keys[scope.value], entry = make_key(scope, [scope])
        entries.append(entry)
    keys["rival"], rival = make_key("rival", [Scope.GENERATE])
    keys["poor"], poor = make_key("poor", [Scope.GENERATE], tokens_per_minute=60, max_choices=2)
    entries += [rival, poor]
    # One for each call that is counted: minutes until it has a token again.
    for name in COUNTED:
        keys[name], entry = make_key(name, [Scope.GENERATE, Scope.RECIPES], tokens_per_minute=20)
        entries.append(entry)
    save_keys(folder / "keys.json", entries)
    options = (
        f"--key-file={folder / 'keys.json'}",
        f"--tls-certificate={folder / 'server.pem'}",
        f"--tls-key={folder / 'server.key'}",
        "--shared-scaffold=steered",
        "--host=localhost",
    )
    with serving(tiny_model, *options) as server:
        yield Secured(server, folder / "keys.json", entries, keys, folder / "ca.pem", folder)


def test_no_method_is_reachable_without_its_scope(secured: Secured) -> None:
    with secured.channel() as channel:
        methods = _reflected_methods(channel, secured.keys["generate"])
        assert set(methods) - OPEN == set(SCOPES) - _not_served(methods)
        for method in methods:
            if method in OPEN:
                assert _call(channel, method, None) is None
                continue
            assert isinstance(_call(channel, method, None), Unauthenticated), method
            assert isinstance(_call(channel, method, "bosal_x_y"), Unauthenticated), method
            for scope in Scope:
                error = _call(channel, method, secured.keys[scope])
                is_refused = isinstance(error, PermissionDenied)
                assert is_refused == (scope not in SCOPES[method]), (method, scope)
                assert not isinstance(error, Unauthenticated)


def test_a_method_nobody_thought_of_is_nobodys() -> None:
    from bosal_server.security.access import Access

    assert not Access().wants_keys
    assert SCOPES.get("/bosal.v1.GenerationService/New", frozenset()) == frozenset()


def test_refusals_are_counted(secured: Secured) -> None:
    def count() -> float:
        return secured.server.metric("bosal_auth_failures_total", reason="KEY_MISSING")

    before = count()
    with secured.client("") as client, pytest.raises(Unauthenticated, match="authorization"):
        client.generate("Hi")
    assert count() == before + 1


def test_a_refused_call_is_not_read(secured: Secured) -> None:
    """The answer comes although the request's message never does."""
    with secured.channel() as channel:
        call: Any = channel.stream_unary("/bosal.v1.GenerationService/Generate")

        def forever() -> Iterator[bytes]:
            time.sleep(5)
            yield b""

        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as failure:
            call(forever(), timeout=5)
        assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - started < 4


def test_plain_text_gets_no_answer(secured: Secured) -> None:
    with Client(secured.server.address, api_key=secured.keys["generate"]) as client:
        with pytest.raises(Exception, match=r".") as failure:
            client.generate("Hi", timeout=3)
        assert not isinstance(failure.value, Unauthenticated)


def test_a_stranger_s_authority_is_not_believed(secured: Secured, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    credentials = Identity(tls_ca=str(tmp_path / "ca.pem")).credentials()
    with Client(secured.server.address, credentials=credentials) as client:
        with pytest.raises(Exception, match=r".") as failure:
            client.generate("Hi", timeout=3)
        assert not isinstance(failure.value, Unauthenticated)


def test_the_prefix_cache_of_one_key_is_not_anothers(secured: Secured) -> None:
    with (
        secured.client(secured.keys["generate"]) as one,
        secured.client(secured.keys["rival"]) as other,
    ):
        recipe: dict[str, Any] = {"rules": []}
        first = one.generate(PROMPT, recipe=recipe, max_tokens=2)
        again = one.generate(PROMPT, recipe=recipe, max_tokens=2)
        foreign = other.generate(PROMPT, recipe=recipe, max_tokens=2)
        assert first.usage.cached_prompt_tokens == 0
        assert again.usage.cached_prompt_tokens > 50
        assert foreign.usage.cached_prompt_tokens == 0


def test_a_quota_refuses_with_the_time_to_try_again(secured: Secured) -> None:
    with secured.client(secured.keys["poor"]) as client:
        client.generate("Hi", max_tokens=30, overrides=ENDLESS)
        with pytest.raises(Overloaded) as failure:
            client.generate("Hi", max_tokens=50)
        assert failure.value.reason == "QUOTA_EXCEEDED"
        assert failure.value.retry_after is not None
        with pytest.raises(InvalidRequest, match="60"):
            client.generate("Hi", max_tokens=100)
        with pytest.raises(InvalidRequest) as too_small:
            client.generate("Hi", num_choices=3, max_tokens=1)
        assert (too_small.value.reason, too_small.value.field) == (
            "QUOTA_TOO_SMALL",
            "spec.num_choices",
        )


@pytest.mark.parametrize("name", COUNTED)
def test_what_generates_nothing_is_counted_too(secured: Secured, name: str) -> None:
    with secured.client(secured.keys[name]) as client:
        with suppress(InvalidRequest):
            COUNTED[name](client)
        for refused in (COUNTED[name], lambda client: client.generate("Hi", max_tokens=1)):
            with pytest.raises(Overloaded) as failure:
                refused(client)
            assert failure.value.reason == "QUOTA_EXCEEDED"
            assert failure.value.retry_after is not None
            assert failure.value.retry_after > 0


def test_a_score_counts_the_prompt_and_the_answer(secured: Secured) -> None:
    with secured.client(secured.keys["poor"]) as client, pytest.raises(InvalidRequest) as failure:
        client.score("Hi", "word " * 70)
    assert failure.value.reason == "QUOTA_TOO_SMALL"


def test_an_asyncio_client_brings_its_key_too(secured: Secured) -> None:
    async def ask() -> int:
        async with AsyncClient(
            secured.server.address,
            credentials=secured.credentials(),
            api_key=secured.keys["generate"],
        ) as client:
            unary = await client.generate("Hi", max_tokens=2)
            streamed = await client.stream("Hi", max_tokens=2).result()
        return len(unary.choices) + len(streamed.choices)

    assert asyncio.run(ask()) == 2


def test_a_watched_report_ends_with_its_key_and_bears_its_name(secured: Secured) -> None:
    text, entry = make_key("watcher", [Scope.EXPERIMENTS])
    variants = [
        {"key": "control", "recipe": "plain", "weight": 0.5, "control": True},
        {"key": "ruled", "recipe": "rules", "weight": 0.5},
    ]
    liked = {"name": "liked", "kind": "proportion", "direction": "increase", "role": "primary"}
    save_keys(secured.key_file, [*secured.entries, entry])
    secured.server.process.send_signal(signal.SIGHUP)
    with secured.client(text) as client:
        assert eventually(lambda: _accepts(client.models))
        client.experiments.create({"name": "mine", "variants": variants, "metrics": [liked]})
        (event,) = client.experiments.audit("mine")
        assert event.actor.startswith("watcher")
        reports = client.experiments.watch("mine", interval=3600)
        assert next(reports).experiment.name == "mine"
        save_keys(secured.key_file, secured.entries)
        secured.server.process.send_signal(signal.SIGHUP)
        with pytest.raises(Unauthenticated):
            list(reports)


def test_keys_and_certificates_are_read_again_on_sighup(secured: Secured) -> None:
    text, entry = make_key("newcomer", [Scope.GENERATE])
    with secured.client(text) as client:
        with pytest.raises(Unauthenticated):
            client.generate("Hi", max_tokens=1)
        before = _certificate(secured.server.address)
        left = [one for one in secured.entries if one.name != "rival"]
        save_keys(secured.key_file, [*left, entry])
        authority = trustme.CA()
        _issue(authority, secured.folder)
        secured.server.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: _accepts(lambda: client.generate("Hi", max_tokens=1)))
    with secured.client(secured.keys["rival"]) as rival:
        # A new connection sees the new certificate, which the old authority did not sign.
        with pytest.raises(Exception, match=r".") as failure:
            rival.generate("Hi", timeout=3)
        assert not isinstance(failure.value, Unauthenticated)
    assert _certificate(secured.server.address) != before
    # What cannot be read changes nothing.
    secured.key_file.write_text("{")
    secured.server.process.send_signal(signal.SIGHUP)
    current = "bosal_config_last_reload_successful"
    assert eventually(lambda: secured.server.metric(current, source="keys") == 0)
    assert "the old ones stay" in secured.server.errors()
    assert secured.server.metric(current, source="certificates") == 1
    reloaded = "bosal_config_last_reload_success_timestamp_seconds"
    assert 0 < secured.server.metric(reloaded, source="keys") < time.time()
    ends = "bosal_certificate_expiry_timestamp_seconds"
    assert secured.server.metric(ends, certificate="server") == _end(secured.folder)
    authority.cert_pem.write_to_path(str(secured.ca))
    with secured.client(text) as client:
        assert client.generate("Hi", max_tokens=1).choices


def test_client_certificates_can_be_demanded(tiny_model: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    _issue(authority, tmp_path)
    client_pair = authority.issue_cert("client@example.org")
    client_pair.private_key_pem.write_to_path(str(tmp_path / "client.key"))
    client_pair.cert_chain_pems[0].write_to_path(str(tmp_path / "client.pem"))
    options = (
        f"--tls-certificate={tmp_path / 'server.pem'}",
        f"--tls-key={tmp_path / 'server.key'}",
        f"--tls-client-ca={tmp_path / 'ca.pem'}",
        "--host=localhost",
    )
    with serving(tiny_model, *options) as server:
        known = Identity(
            tls_ca=str(tmp_path / "ca.pem"),
            client_certificate=str(tmp_path / "client.pem"),
            client_key=str(tmp_path / "client.key"),
        )
        with Client(server.address, credentials=known.credentials()) as client:
            assert client.generate("Hi", max_tokens=1).choices
        unknown = Identity(tls_ca=str(tmp_path / "ca.pem"))
        with (
            Client(server.address, credentials=unknown.credentials()) as client,
            pytest.raises(Exception, match=r"."),
        ):
            client.generate("Hi", timeout=3)


def _issue(authority: trustme.CA, folder: Path) -> None:
    pair = authority.issue_cert("localhost")
    pair.private_key_pem.write_to_path(str(folder / "server.key"))
    pair.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))


def _end(folder: Path) -> float:
    pem = (folder / "server.pem").read_bytes()
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def _certificate(address: str) -> str:
    host, _, port = address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


def _accepts(call: Callable[[], object]) -> bool:
    try:
        call()
    except Unauthenticated:
        return False
    return True


def _reflected_methods(channel: grpc.Channel, key: str) -> list[str]:
    """Ask the server itself for every method of every service."""
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    metadata = (("authorization", f"Bearer {key}"),)

    def ask(**question: str) -> Any:
        request = reflection_pb2.ServerReflectionRequest(**question)
        (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata)
        return answer

    methods = []
    for service in ask(list_services="").list_services_response.service:
        answer = ask(file_containing_symbol=service.name).file_descriptor_response
        for data in answer.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            methods += [
                f"/{service.name}/{method.name}"
                for one in file.service
                if f"{file.package}.{one.name}" == service.name
                for method in one.method
            ]
    assert len(methods) > 10
    return methods


def _not_served(methods: list[str]) -> set[str]:
    """Entries of methods this version does not have yet."""
    return set(SCOPES) - set(methods)


def _call(channel: grpc.Channel, method: str, key: str | None) -> Exception | None:
    """Call with an empty message; return how it was refused, if it was."""
    metadata = () if key is None else (("authorization", f"Bearer {key}"),)
    call: Any = channel.unary_stream(method)
    if method == STREAMED:
        call = channel.stream_stream(method)
    answers = call(iter([b""]) if method == STREAMED else b"", metadata=metadata, timeout=10)
    try:
        next(answers, None)
    except grpc.RpcError as error:
        return from_rpc_error(error)
    finally:
        answers.cancel()
    return None
