"""Certificates: what is no pair is refused before gRPC would fail every handshake."""

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from bosal_server.config import InvalidConfig
from bosal_server.security import tls
from bosal_server.security.tls import TlsCredentials, TlsFiles


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    found = TlsFiles(certificate=tmp_path / "server.pem", key=tmp_path / "server.key")
    _issue(found)
    return found


def _issue(files: TlsFiles) -> None:
    pair = trustme.CA().issue_cert("localhost")
    pair.private_key_pem.write_to_path(str(files.key))
    pair.cert_chain_pems[0].write_to_path(str(files.certificate))


def test_a_pair_is_taken_and_read_again(files: TlsFiles) -> None:
    credentials = TlsCredentials(files)
    _issue(files)
    credentials.reload()


def test_an_encrypted_key_is_refused_and_nobody_is_asked(files: TlsFiles) -> None:
    """OpenSSL would ask for its password at the terminal, a running server's event loop waiting."""
    key = load_pem_private_key(files.key.read_bytes(), None)
    encryption = BestAvailableEncryption(b"geheim")
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    with pytest.raises(InvalidConfig, match=r"server\.key: the key is encrypted"):
        TlsCredentials(files)


def test_half_a_renewal_leaves_the_old_pair(files: TlsFiles, tmp_path: Path) -> None:
    credentials = TlsCredentials(files)
    other = TlsFiles(certificate=tmp_path / "other.pem", key=tmp_path / "other.key")
    _issue(other)
    files.certificate.write_bytes(other.certificate.read_bytes())
    with pytest.raises(InvalidConfig, match="not a certificate and its key"):
        credentials.reload()


def test_files_that_change_as_they_are_read_are_refused(
    files: TlsFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair that was checked is the one that is handed out."""
    check = tls._check_pair

    def renewed(given: TlsFiles) -> None:
        check(given)
        _issue(given)

    monkeypatch.setattr(tls, "_check_pair", renewed)
    with pytest.raises(InvalidConfig, match="changed as they were read"):
        TlsCredentials(files)


@pytest.mark.parametrize("name", ["server.pem", "server.key"])
def test_a_file_that_is_not_there_is_named(files: TlsFiles, name: str) -> None:
    (files.key.parent / name).unlink()
    with pytest.raises(InvalidConfig, match=rf"{name}: No such file"):
        TlsCredentials(files)


def test_an_authority_without_certificates_is_named(files: TlsFiles, tmp_path: Path) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_text("nothing")
    with pytest.raises(InvalidConfig, match=r"ca\.pem: no certificates"):
        TlsCredentials(TlsFiles(certificate=files.certificate, key=files.key, client_ca=authority))
