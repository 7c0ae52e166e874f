"""The private CA and the server's certificate."""

import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from app.errors import UserError
from app.fleet.identity import certificates, keys

LONG_AGO = datetime.now(UTC) - timedelta(days=800)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    certificates.init_ca(tmp_path)
    certificates.issue_server(tmp_path, ["server.example.org", "192.0.2.7", "2001:DB8::1"])
    return tmp_path


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_the_server_certificate_names_what_was_given_and_the_local_names(pki: Path) -> None:
    certificate = certificates.load_certificate(pki / "server.crt", "server certificate")
    assert set(certificates.certificate_names(certificate)) == {
        "server.example.org", "192.0.2.7", "2001:db8::1", "superlink", "localhost", "127.0.0.1",
    }  # fmt: skip
    assert keys.check_server_identity(pki, ["server.example.org", "192.0.2.7"]) == []


def test_openssl_accepts_the_chain(pki: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    verdict = subprocess.run(
        [
            *["openssl", "verify", "-x509_strict", "-purpose", "sslserver"],
            *["-verify_hostname", "superlink", "-CAfile"],
            pki / "ca.crt",
            pki / "server.crt",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verdict.returncode == 0, verdict.stderr
    ssl.create_default_context(cafile=str(pki / "ca.crt"))


def test_secrets_are_readable_by_their_owner_only(pki: Path) -> None:
    key = keys.make_node_key(pki / "node.key")
    for secret in (pki / "ca.key", pki / "server.key", key.path):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert not [file for file in pki.iterdir() if file.name.startswith(".")], "something was left behind"


def test_set_up_again_changes_nothing(pki: Path) -> None:
    before = contents(pki)
    assert "kept" in certificates.init_ca(pki)
    assert "kept" in certificates.issue_server(pki, ["192.0.2.7", "2001:db8::1", "server.example.org"])
    assert contents(pki) == before


def test_a_ca_of_which_the_certificate_is_missing_is_not_replaced(pki: Path) -> None:
    (pki / "ca.crt").unlink()
    before = contents(pki)
    with pytest.raises(UserError, match=r"ca\.crt does not exist"):
        certificates.init_ca(pki)
    assert contents(pki) == before


def test_set_up_without_the_key_of_the_ca_keeps_what_is_valid(pki: Path) -> None:
    """The key may be away; what would need it names it, and changes nothing."""
    (pki / "ca.key").unlink()
    before = contents(pki)
    names = ["server.example.org", "192.0.2.7", "2001:db8::1"]
    assert "ca.key is kept elsewhere" in certificates.init_ca(pki)
    for days in (0, 364):
        assert "kept" in certificates.issue_server(pki, names, now=datetime.now(UTC) + timedelta(days=days))
    needs_it = (
        lambda: certificates.issue_server(pki, ["other.example.org"]),
        lambda: certificates.issue_server(pki, names, now=datetime.now(UTC) + timedelta(days=366)),
        lambda: certificates.renew_server(pki),
    )
    for command in needs_it:
        with pytest.raises(UserError, match=r"ca\.key must sign: put that file back"):
            command()
    assert contents(pki) == before


def test_other_names_give_another_certificate_under_the_same_ca(pki: Path) -> None:
    before = contents(pki)
    assert "made" in certificates.issue_server(pki, ["other.example.org"])
    after = contents(pki)
    assert after["ca.crt"] == before["ca.crt"]
    assert after["server.crt"] != before["server.crt"]
    with pytest.raises(UserError, match=r"does not name server\.example\.org.*pki server"):
        keys.check_server_identity(pki, ["server.example.org"])


def test_renewal_keeps_the_names_and_the_ca(pki: Path) -> None:
    before = contents(pki)
    old = x509.load_pem_x509_certificate(before["server.crt"])
    certificates.renew_server(pki)
    new = x509.load_pem_x509_certificate((pki / "server.crt").read_bytes())
    assert set(certificates.certificate_names(new)) == set(certificates.certificate_names(old))
    assert new.serial_number != old.serial_number
    assert new.public_key() != old.public_key()
    assert (pki / "ca.crt").read_bytes() == before["ca.crt"]
    assert keys.check_server_identity(pki) == []


def test_the_server_needs_no_ca_key(pki: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    certificates.issue_server(pki, ["a.example.org"], out=served)
    assert sorted(file.name for file in served.iterdir()) == ["ca.crt", "server.crt", "server.key"]
    assert keys.check_server_identity(served, ["a.example.org"]) == []


def test_a_pair_that_does_not_match_is_noticed_and_mended(pki: Path, tmp_path: Path) -> None:
    certificates.init_ca(tmp_path / "other")
    certificates.issue_server(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "server.key", pki / "server.key")
    with pytest.raises(UserError, match="does not fit"):
        keys.check_server_identity(pki)
    assert "made" in certificates.issue_server(pki, ["server.example.org", "192.0.2.7", "2001:db8::1"])
    assert keys.check_server_identity(pki) == []


def test_a_certificate_of_another_ca_is_noticed(pki: Path, tmp_path: Path) -> None:
    certificates.init_ca(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "ca.crt", pki / "ca.crt")
    with pytest.raises(UserError, match="not signed by"):
        keys.check_server_identity(pki)


def test_expiry_is_warned_of_thirty_days_before_and_refused_after(pki: Path) -> None:
    now = datetime.now(UTC)
    assert keys.check_server_identity(pki, now=now + timedelta(days=330)) == []
    [warning] = keys.check_server_identity(pki, now=now + timedelta(days=340))
    assert "server.crt expires in 2" in warning
    assert "pki renew" in warning
    with pytest.raises(UserError, match=r"server\.crt expired on .*pki renew"):
        keys.check_server_identity(pki, now=now + timedelta(days=370))


def test_set_up_renews_what_is_about_to_expire(pki: Path) -> None:
    names = ["server.example.org", "192.0.2.7", "2001:db8::1"]
    assert "made" in certificates.issue_server(pki, names, now=datetime.now(UTC) + timedelta(days=340))


def test_an_expired_ca_is_refused_on_both_ends(tmp_path: Path) -> None:
    certificates.init_ca(tmp_path, lifetime=timedelta(days=90), now=LONG_AGO)
    key = keys.make_node_key(tmp_path / "node.key")
    with pytest.raises(UserError, match=r"ca\.crt expired on"):
        certificates.issue_server(tmp_path)
    with pytest.raises(UserError, match=r"ca\.crt expired on .*server's operator"):
        keys.check_client_identity(tmp_path / "ca.crt", key.path)


def test_a_server_certificate_does_not_outlive_its_ca(tmp_path: Path) -> None:
    certificates.init_ca(tmp_path, lifetime=timedelta(days=10))
    certificates.issue_server(tmp_path)
    assert "kept" in certificates.issue_server(tmp_path), "renewing it again and again would not help"
    ca, server = (
        certificates.load_certificate(tmp_path / name, "certificate") for name in ("ca.crt", "server.crt")
    )
    assert server.not_valid_after_utc <= ca.not_valid_after_utc
    assert len(keys.check_server_identity(tmp_path)) == 2


@pytest.mark.parametrize("name", ["https://a.example.org", "a:9092", "a b", "*.example.org", "300.1.1.1", ""])
def test_a_name_that_nobody_can_dial_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="neither a host name nor an IP address"):
        certificates.server_names([name])
