"""Files that hold secrets."""

import os
from pathlib import Path

import pytest

from app.errors import UserError
from app.fleet.identity import certificates, keys
from app.fleet.identity import files as private_files


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    certificates.init_ca(tmp_path)
    certificates.issue_server(tmp_path, ["server.example.org", "192.0.2.7", "2001:DB8::1"])
    return tmp_path


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
