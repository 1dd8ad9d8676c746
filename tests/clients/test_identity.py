"""Whom a client believes, and as whom it speaks: TLS files and keys, good and bad."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from bosal.v1 import model_pb2, model_pb2_grpc
from bosal_client import Client, InvalidRequest, Unavailable
from bosal_client.identity import Identity
from bosal_client.render import error as say


class Models(model_pb2_grpc.ModelServiceServicer):
    def ListModels(
        self, request: model_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> model_pb2.ListModelsResponse:
        return model_pb2.ListModelsResponse()

    def GetServerInfo(
        self, request: model_pb2.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> model_pb2.GetServerInfoResponse:
        return model_pb2.GetServerInfoResponse()


@dataclass(frozen=True)
class Wires:
    """One server at three addresses, and the files that belong to it."""

    plain: str
    tls: str
    mutual: str
    folder: Path

    def file(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wires]:
    folder = tmp_path_factory.mktemp("tls")
    ca, stranger = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    stranger.cert_pem.write_to_path(folder / "stranger.pem")
    (folder / "junk.pem").write_text("nothing\n")
    for name, owner in (("client", ca), ("other", ca)):
        pair = owner.issue_cert(f"{name}@example.org")
        pair.private_key_pem.write_to_path(folder / f"{name}.key")
        pair.cert_chain_pems[0].write_to_path(folder / f"{name}.crt")
    own = ca.issue_cert("127.0.0.1")
    pairs = [(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())]
    server = grpc.server(ThreadPoolExecutor(2))
    model_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    mutual = grpc.ssl_server_credentials(pairs, ca.cert_pem.bytes(), require_client_auth=True)
    plain, tls, both = (
        server.add_insecure_port("127.0.0.1:0"),
        server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pairs)),
        server.add_secure_port("127.0.0.1:0", mutual),
    )
    server.start()
    yield Wires(
        plain=f"127.0.0.1:{plain}",
        tls=f"127.0.0.1:{tls}",
        mutual=f"127.0.0.1:{both}",
        folder=folder,
    )
    server.stop(None).wait()


def ask(server: str, identity: Identity) -> None:
    with Client(server, **identity.options()) as client:
        assert client.models(timeout=20) == ()


def test_a_server_is_believed_that_the_file_vouches_for(wires: Wires) -> None:
    ask(wires.tls, Identity(tls_ca=wires.file("ca.pem")))
    client = {
        "client_certificate": wires.file("client.crt"), "client_key": wires.file("client.key")
    }  # fmt: skip
    ask(wires.mutual, Identity(tls_ca=wires.file("ca.pem"), **client))


def test_system_means_the_authorities_of_this_machine(
    wires: Wires, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And not a list that grpc brings along."""
    system = Identity.from_environment({"BOSAL_TLS_CA": "system"})
    monkeypatch.setenv("SSL_CERT_FILE", wires.file("ca.pem"))
    ask(wires.tls, system)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    (tmp_path / "hashed").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "hashed" / "0a1b2c3d.0").write_bytes(Path(wires.file("ca.pem")).read_bytes())
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "hashed"))
    ask(wires.tls, system)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "empty"))
    with pytest.raises(InvalidRequest, match="this machine has no certificates"):
        system.credentials()


@pytest.mark.parametrize(
    ("ca", "certificate", "key", "said"),
    [
        ("missing.pem", "", "", "No such file"),
        ("junk.pem", "", "", "junk.pem has no certificates of authorities in PEM"),
        ("ca.pem", "client.crt", "", "go together"),
        ("ca.pem", "client.crt", "other.key", "no certificate and key: key values mismatch"),
        ("ca.pem", "client.crt", "junk.pem", "no certificate and key"),
        ("", "client.crt", "client.key", "needs TLS"),
    ],
)
def test_files_that_cannot_work_are_refused_before_a_connection(
    wires: Wires, ca: str, certificate: str, key: str, said: str
) -> None:
    files = [wires.file(name) if name else "" for name in (ca, certificate, key)]
    identity = Identity(tls_ca=files[0], client_certificate=files[1], client_key=files[2])
    with pytest.raises(InvalidRequest, match=said):
        identity.credentials()


def test_a_key_from_a_file_may_end_with_its_line() -> None:
    assert Identity.from_environment({"BOSAL_API_KEY": "secret\n"}).api_key == "secret"


@pytest.mark.parametrize(
    ("place", "ca", "said"),
    [
        ("tls", "stranger.pem", "not vouched for by the authorities in BOSAL_TLS_CA"),
        ("plain", "ca.pem", "speaks no TLS"),
        ("tls", "", "no server answers"),
    ],
)
def test_what_is_wrong_with_a_connection_is_said(
    wires: Wires, capsys: pytest.CaptureFixture[str], place: str, ca: str, said: str
) -> None:
    server = getattr(wires, place)
    with pytest.raises(Unavailable) as failure:
        ask(server, Identity(tls_ca=wires.file(ca) if ca else ""))
    say(failure.value, server)
    assert said in capsys.readouterr().err
