"""Keys and certificates: made once, renewed without the clients, refused where they cannot be trusted."""

import os
import shutil
import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from app.errors import UserError
from app.fleet import certificates, keys, private_files

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


def test_a_ca_of_which_half_is_missing_is_not_replaced(pki: Path) -> None:
    (pki / "ca.key").unlink()
    before = contents(pki)
    with pytest.raises(UserError, match=r"ca\.key does not exist"):
        certificates.init_ca(pki)
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


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
@pytest.mark.parametrize("name", ["server.key", "node.key", "ca.key"])
def test_a_secret_that_others_can_read_is_refused_with_the_command_to_run(
    pki: Path, name: str, mode: int
) -> None:
    keys.make_node_key(pki / "node.key")
    (pki / name).chmod(mode)
    with pytest.raises(UserError) as refusal:
        match name:
            case "server.key":
                keys.check_server_identity(pki)
            case "node.key":
                keys.check_client_identity(pki / "ca.crt", pki / name)
            case "ca.key":
                certificates.renew_server(pki)
    assert f"chmod 600 {pki / name}" in str(refusal.value)


def test_a_secret_that_kubernetes_lends_to_the_group_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a file that is not its own")
    secret = tmp_path / "node.key"
    secret.write_text("secret")
    os.chown(secret, 0, 10001)
    secret.chmod(0o440)
    monkeypatch.setattr(private_files.os, "geteuid", lambda: 10001)
    monkeypatch.setattr(private_files.os, "getegid", lambda: 10001)
    assert private_files.read_private(secret, "node key") == b"secret"
    secret.chmod(0o444)
    with pytest.raises(UserError, match="chmod 600"):
        private_files.read_private(secret, "node key")
    monkeypatch.setattr(private_files.os, "getegid", lambda: 20002)
    monkeypatch.setattr(private_files.os, "getgroups", lambda: [20002])
    secret.chmod(0o440)
    with pytest.raises(UserError, match="chmod 600"):
        private_files.read_private(secret, "node key")


def test_a_node_key_is_made_once_and_ssh_keygen_reads_it(tmp_path: Path) -> None:
    first = keys.make_node_key(tmp_path / "client" / "node.key", comment="hospital-a")
    again = keys.make_node_key(tmp_path / "client" / "node.key")
    assert (first.made, again.made) == (True, False)
    assert again.fingerprint == first.fingerprint
    assert again.public_text == first.public_text
    assert first.public_text.startswith("ecdsa-sha2-nistp384 ")
    assert first.public_text.endswith(" hospital-a")
    assert keys.fingerprint(keys.load_public_key(first.public_path)) == first.fingerprint
    if shutil.which("ssh-keygen"):
        seen = subprocess.run(
            ["ssh-keygen", "-lf", first.public_path], capture_output=True, text=True, check=True
        )
        assert first.fingerprint in seen.stdout


def test_a_lost_public_half_is_written_again_and_the_key_stays(tmp_path: Path) -> None:
    first = keys.make_node_key(tmp_path / "node.key")
    first.public_path.unlink()
    again = keys.make_node_key(tmp_path / "node.key")
    assert again.public_path.read_text().strip() == first.public_text


def test_a_private_key_offered_for_enrolment_is_refused(tmp_path: Path) -> None:
    key = keys.make_node_key(tmp_path / "node.key")
    with pytest.raises(UserError, match=r"must not leave its client: enroll node\.key\.pub"):
        keys.load_public_key(key.path)


@pytest.mark.parametrize("content", [b"", b"not a key", b"ssh-ed25519 AAAA", b"\xff\x00\x01"])
def test_a_file_that_is_no_public_key_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "client.pub"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"client\.pub is no OpenSSH public key"):
        keys.load_public_key(file)


def test_what_a_client_lacks_is_named_before_it_dials(pki: Path, tmp_path: Path) -> None:
    key = keys.make_node_key(tmp_path / "node.key").path
    assert keys.check_client_identity(pki / "ca.crt", key) == []
    with pytest.raises(UserError, match=r"CA certificate .*nowhere.crt does not exist"):
        keys.check_client_identity(tmp_path / "nowhere.crt", key)
    with pytest.raises(UserError, match=r"node key .*nowhere.key does not exist"):
        keys.check_client_identity(pki / "ca.crt", tmp_path / "nowhere.key")
    with pytest.raises(UserError, match=r"is not that of a CA: take ca\.crt, not server\.crt"):
        keys.check_client_identity(pki / "server.crt", key)
    with pytest.raises(UserError, match="holds a private key"):
        keys.check_client_identity(pki / "server.key", key)
    (tmp_path / "text.crt").write_text("hello")
    with pytest.raises(UserError, match="no certificate in PEM form"):
        keys.check_client_identity(tmp_path / "text.crt", key)
    (tmp_path / "text.key").write_text("hello")
    (tmp_path / "text.key").chmod(0o600)
    with pytest.raises(UserError, match="no unencrypted OpenSSH private key"):
        keys.check_client_identity(pki / "ca.crt", tmp_path / "text.key")


@pytest.mark.parametrize("name", ["https://a.example.org", "a:9092", "a b", "*.example.org", "300.1.1.1", ""])
def test_a_name_that_nobody_can_dial_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="neither a host name nor an IP address"):
        certificates.server_names([name])


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "server.key"
    private_files.write_atomically(file, b"old", private_files.PRIVATE)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        private_files.write_atomically(file, b"new", private_files.PRIVATE)
    assert contents(tmp_path) == {"server.key": b"old"}
