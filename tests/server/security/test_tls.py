"""Certificates: what is no pair, or not good now, is refused: gRPC would fail each handshake."""

from datetime import UTC, datetime, timedelta
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


NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def _issue(
    files: TlsFiles, *, begins: datetime = NOW - DAY, ends: datetime = NOW + 90 * DAY
) -> None:
    pair = trustme.CA().issue_cert("localhost", not_before=begins, not_after=ends)
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


def test_a_certificate_that_is_over_or_not_yet_good_is_refused(files: TlsFiles) -> None:
    _issue(files, ends=NOW - timedelta(minutes=1))
    with pytest.raises(InvalidConfig, match=r"server\.pem: the certificate expired at .* UTC"):
        TlsCredentials(files)
    _issue(files, begins=NOW + DAY)
    with pytest.raises(InvalidConfig, match="is good from .*clock says"):
        TlsCredentials(files)


def test_a_renewal_that_is_over_leaves_what_is_in_force(files: TlsFiles) -> None:
    credentials = TlsCredentials(files)
    before = credentials.certificates["server"].ends
    _issue(files, ends=NOW - DAY)
    with pytest.raises(InvalidConfig, match="expired"):
        credentials.reload()
    assert credentials.certificates["server"].ends == before
    _issue(files, ends=NOW + 365 * DAY)
    credentials.reload()
    assert credentials.certificates["server"].ends > before


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (15 * DAY, None),
        (13.5 * DAY, "expires in 13 days"),
        (30.5 * DAY / 24, "expires in 30 hours"),
    ],
)
def test_an_end_that_is_near_is_warned_of(
    files: TlsFiles, left: timedelta, said: str | None
) -> None:
    _issue(files, ends=NOW + left)
    warnings = TlsCredentials(files, clock=lambda: NOW).warnings()
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]


def test_a_chain_ends_with_its_first_and_authorities_with_their_last(
    files: TlsFiles, tmp_path: Path
) -> None:
    """A root of yesterday behind a good certificate is superfluous, not the end."""
    good, old = (
        files.certificate.read_bytes(),
        TlsFiles(certificate=tmp_path / "old.pem", key=tmp_path / "old.key"),
    )
    _issue(old, ends=NOW - DAY)
    files.certificate.write_bytes(good + old.certificate.read_bytes())
    authorities = TlsFiles(certificate=files.certificate, key=files.key, client_ca=old.certificate)
    with pytest.raises(InvalidConfig, match=r"old\.pem: the certificate expired"):
        TlsCredentials(authorities)
    old.certificate.write_bytes(old.certificate.read_bytes() + good)
    credentials = TlsCredentials(authorities)
    found = credentials.certificates
    assert found["server"].ends < NOW < found["client_ca"].ends
    (warning,) = credentials.warnings()
    assert "server.pem holds one that expired" in warning
