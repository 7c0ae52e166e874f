"""Who is who: a client's key pair, and the look at all identity files before anything is dialled.

What Flower would only report as a failed handshake or an exit code is found here first, with the
file's name and what to do about it.
"""

import base64
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from app.errors import UserError
from app.files import PRIVATE, PUBLIC, write_atomically
from app.fleet.identity.certificates import (
    EXPIRY_NOTICE,
    certificate_names,
    is_signed_by,
    load_certificate,
    load_private_key,
    server_names,
)
from app.fleet.identity.files import locked, make_directory, read, read_private


@dataclass(frozen=True)
class NodeKey:
    """One client's key pair: the private half stays in `path`, the public half may travel."""

    path: Path
    public_path: Path
    public_text: str  # one OpenSSH line, as in `public_path`
    fingerprint: str  # as `ssh-keygen -lf` prints it
    made: bool  # False where it was there before


def make_node_key(path: Path, *, comment: str = "") -> NodeKey:
    """Make a SECP384R1 key pair in `path` (OpenSSH form, 0600) and `path`.pub unless it is there.

    Never overwrites a key: the server knows a client by it. Raises UserError.
    """
    make_directory(path.parent)
    with locked(path.parent):
        made = not path.exists()
        if made:
            key = ec.generate_private_key(ec.SECP384R1())
            write_atomically(
                path,
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.OpenSSH,
                    serialization.NoEncryption(),
                ),
                PRIVATE,
            )
        _, public_key = load_node_key(path)
        public_path = path.with_name(path.name + ".pub")
        text = f"{_openssh(public_key)} {comment}".strip()
        if made or not public_path.exists():
            write_atomically(public_path, f"{text}\n".encode(), PUBLIC)
        return NodeKey(path, public_path, public_path.read_text().strip(), fingerprint(public_key), made)


def load_node_key(path: Path) -> tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]:
    """Return a client's key pair; UserError if it is missing, exposed, encrypted or of another kind."""
    content = read_private(path, "node key")
    try:
        key = serialization.load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError):
        raise UserError(
            f"node key {path} is no unencrypted OpenSSH private key: make one with `bouquet node-key`"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"node key {path} is no elliptic-curve key: make one with `bouquet node-key`")
    return key, key.public_key()


def load_public_key(path: Path) -> ec.EllipticCurvePublicKey:
    """Return the public half of a client's key; UserError if the file holds anything else."""
    content = read(path, "public key")
    if b"PRIVATE KEY" in content:
        raise UserError(
            f"{path} holds a private key, which must not leave its client: enroll {path.name}.pub"
        )
    try:
        key = serialization.load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm, NotImplementedError):  # such as a compressed point
        raise UserError(
            f"public key {path} is no OpenSSH public key: copy the line that `bouquet node-key` printed"
        ) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UserError(f"public key {path} is no SECP384R1 key: make one with `bouquet node-key`")
    return key


def fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """Return SHA256:… of a public key, as `ssh-keygen -lf KEY.pub` prints it."""
    blob = base64.b64decode(_openssh(key).split()[1])
    digest = hashes.Hash(hashes.SHA256())
    digest.update(blob)
    return "SHA256:" + base64.b64encode(digest.finalize()).decode().rstrip("=")


def check_client_identity(ca: Path, key: Path | None, *, now: datetime | None = None) -> list[str]:
    """Look at a client's files before it dials. Returns warnings; raises UserError."""
    if key is None:
        raise UserError("BOUQUET_NODE_KEY (--key) is not set: give the file that `bouquet node-key` made")
    check_ca(ca, now=now)
    load_node_key(key)
    return expiry_warnings([ca], now=now)


def check_ca(ca: Path, *, now: datetime | None = None) -> x509.Certificate:
    """A client's copy of the CA's certificate. Raises UserError where it cannot serve."""
    certificate = load_certificate(ca, "CA certificate")
    _check_dates(certificate, ca, "ask the server's operator for the new ca.crt", now)
    if not _is_ca(certificate):
        raise UserError(
            f"CA certificate {ca} is not that of a CA: take ca.crt, not server.crt, from the server"
        )
    return certificate


def check_server_identity(
    directory: Path, names: Iterable[str] = (), *, now: datetime | None = None
) -> list[str]:
    """Look at the server's files before it listens. Returns warnings; raises UserError.

    `names`: what clients will dial; each must stand in the certificate.
    """
    ca = load_certificate(directory / "ca.crt", "CA certificate")
    certificate = load_certificate(directory / "server.crt", "server certificate")
    key = load_private_key(directory / "server.key", "server key")
    file = directory / "server.crt"
    _check_dates(
        ca,
        directory / "ca.crt",
        "make a new CA with `bouquet pki init` and give every client its ca.crt",
        now,
    )
    _check_dates(certificate, file, "run `bouquet pki renew`", now)
    if certificate.public_key() != key.public_key():
        raise UserError(f"{file} does not fit {directory / 'server.key'}: run `bouquet pki renew`")
    if not is_signed_by(certificate, ca):
        raise UserError(f"{file} is not signed by {directory / 'ca.crt'}: run `bouquet pki renew`")
    missing = [name for name in server_names(names) if name not in certificate_names(certificate)]
    if missing:
        raise UserError(
            f"{file} does not name {', '.join(missing)}: run `bouquet pki server` "
            + " ".join(f"--name {name}" for name in missing)
        )
    return expiry_warnings([directory / "ca.crt", file], now=now)


def watch_expiry(files: Iterable[Path], echo: Callable[[str], None], interval_s: float = 86_400.0) -> None:
    """Say the warnings of `expiry_warnings` now and every `interval_s` seconds, in the background."""
    watched = tuple(files)

    def watch() -> None:
        while True:
            try:
                lines = expiry_warnings(watched)
            except UserError as error:
                lines = [str(error)]
            for line in lines:
                echo(line)
            time.sleep(interval_s)

    threading.Thread(target=watch, name="certificate-expiry", daemon=True).start()


def expiry_warnings(files: Iterable[Path], *, now: datetime | None = None) -> list[str]:
    """Return one line for each certificate that expires within 30 days, with what to do about it."""
    moment = now or datetime.now(UTC)
    lines = []
    for file in files:
        certificate = load_certificate(file, "certificate")
        left = certificate.not_valid_after_utc - moment
        if left < EXPIRY_NOTICE:
            remedy = (
                "a new CA and a new ca.crt on every client are due"
                if _is_ca(certificate)
                else "run `bouquet pki renew` and restart the SuperLink"
            )
            when = f"expires in {left.days} days" if left.days >= 0 else "has expired"
            lines.append(f"{file} {when}, on {certificate.not_valid_after_utc:%Y-%m-%d}: {remedy}")
    return lines


def _check_dates(certificate: x509.Certificate, file: Path, remedy: str, now: datetime | None) -> None:
    moment = now or datetime.now(UTC)
    if certificate.not_valid_after_utc <= moment:
        raise UserError(f"{file} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: {remedy}")
    if certificate.not_valid_before_utc > moment:
        raise UserError(
            f"{file} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC: "
            "set this host's clock"
        )


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _openssh(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
