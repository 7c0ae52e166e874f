"""Clients' keys, and the look at identity files before anything is dialled."""

import shutil
import subprocess
from pathlib import Path

import pytest

from app.errors import UserError
from app.fleet.identity import certificates, keys


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    certificates.init_ca(tmp_path)
    certificates.issue_server(tmp_path, ["server.example.org", "192.0.2.7", "2001:DB8::1"])
    return tmp_path


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
