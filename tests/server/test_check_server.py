"""`bosal serve --check` says of certificates what a start would."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from bosal_server import check_server
from bosal_server.config import ServerConfig
from bosal_server.options import Resolved


def outcome(folder: Path, ends: datetime) -> int:
    pair = trustme.CA().issue_cert("localhost", not_after=ends)
    certificate, key = folder / "server.pem", folder / "server.key"
    pair.private_key_pem.write_to_path(str(key))
    pair.cert_chain_pems[0].write_to_path(str(certificate))
    config = ServerConfig(tls_certificate=certificate, tls_key=key)
    return check_server.report(Resolved(config, {}, {}, None))


def test_it_says_how_long_a_certificate_is_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = datetime(2099, 12, 31, 23, 59, tzinfo=UTC)
    assert outcome(tmp_path, ends) == 0
    shown = capsys.readouterr()
    assert "2099-12-31 23:59 UTC" in shown.out
    assert shown.err == ""


def test_it_warns_of_one_that_ends_soon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(tmp_path, datetime.now(UTC) + timedelta(days=3)) == 0
    assert "warning:" in (shown := capsys.readouterr().err)
    assert "server.pem expires in 2 days" in shown


def test_it_fails_for_one_that_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # No later than it was issued, a certificate of this maker cannot end.
    assert outcome(tmp_path, datetime(2010, 1, 1, tzinfo=UTC)) == 1
    assert "server.pem: the certificate expired" in capsys.readouterr().err
