"""`bouquet pki all`: the identities of a federation on one host."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.fleet.identity.certificates import certificate_names, load_certificate
from app.fleet.identity.keys import check_client_identity, check_server_identity


@pytest.mark.parametrize("arguments", [[], ["--clients", "2"]])
def test_every_client_gets_a_key_and_only_public_halves_are_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("NUM_CLIENTS", "7" if arguments else "2")
    monkeypatch.setenv("SERVER_NAMES", "fl.example.org")
    ca, server, keys, public = (tmp_path / name for name in ("ca", "server", "keys", "public"))
    command = [
        "pki",
        "all",
        "--dir",
        str(ca),
        "--out",
        str(server),
        "--keys",
        str(keys),
        "--public",
        str(public),
    ]
    done = CliRunner().invoke(app, command + arguments)
    assert done.exit_code == 0, done.output
    assert "client-1: SHA256:" in done.output
    assert {file.name for file in public.iterdir()} == {"ca.crt", "0.key.pub", "1.key.pub"}
    assert "fl.example.org" in certificate_names(load_certificate(server / "server.crt", "certificate"))
    assert check_server_identity(server) == []
    for partition in range(2):
        assert check_client_identity(public / "ca.crt", keys / f"{partition}.key") == []

    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert CliRunner().invoke(app, command + arguments).exit_code == 0
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
