"""The federation's private CA and the certificate of its server.

A directory holds `ca.crt`, `ca.key`, `server.crt` and `server.key`. Only `ca.crt` ever goes to a client;
`ca.key` is needed to issue and renew, not to serve. It may be taken away in between: set-up then keeps what is valid.
"""

import ipaddress
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from app.errors import UserError
from app.files import PRIVATE, PUBLIC, write_atomically
from app.fleet.identity.files import locked, make_directory, read, read_private

CA_LIFETIME = timedelta(days=3650)
SERVER_LIFETIME = timedelta(days=365)
EXPIRY_NOTICE = timedelta(days=30)

# Dialled inside one host or one Compose network, whatever the site calls its server.
ALWAYS_NAMED = ("superlink", "localhost", "127.0.0.1")

# Clocks of separate hosts differ a little; a certificate made a moment ago must be valid for all of them.
_CLOCK_SKEW = timedelta(hours=1)
_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")


def init_ca(directory: Path, *, lifetime: timedelta = CA_LIFETIME, now: datetime | None = None) -> str:
    """Make `ca.key` and `ca.crt` in `directory` unless they are there. Returns a line for the person.

    Never overwrites: with a new CA every client would have to fetch a new `ca.crt`.
    Raises UserError where `ca.crt` alone is missing, the halves do not match, or the CA has expired.
    """
    make_directory(directory)
    with locked(directory):
        certificate_file, key_file = directory / "ca.crt", directory / "ca.key"
        if certificate_file.exists() or key_file.exists():
            certificate, kept_key = _load_ca(directory)
            where = "" if kept_key else f"; {key_file.name} is kept elsewhere"
            return f"{certificate_file}: kept, valid until {certificate.not_valid_after_utc:%Y-%m-%d}{where}"
        now = now or datetime.now(UTC)
        key = ec.generate_private_key(ec.SECP384R1())
        # A name of its own, so that a client which holds two CAs can tell them apart.
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Bouquet CA {secrets.token_hex(4)}")])
        certificate = (
            _builder(name, name, key.public_key(), now, now + lifetime)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA384())
        )
        write_atomically(key_file, _private_pem(key), PRIVATE)
        write_atomically(certificate_file, _public_pem(certificate), PUBLIC)
        return f"{certificate_file}: made, valid until {certificate.not_valid_after_utc:%Y-%m-%d}"


def issue_server(
    directory: Path,
    names: Iterable[str] = (),
    *,
    lifetime: timedelta = SERVER_LIFETIME,
    out: Path | None = None,
    now: datetime | None = None,
) -> str:
    """Make `server.crt` and `server.key` for `names` (host names and addresses) and `ALWAYS_NAMED`.

    A certificate that already names the same, is signed by this CA, fits its key and has more than
    30 days left is kept; without `ca.key`, as long as it is valid. `out` is where a server finds its files (with a copy of `ca.crt`) when the CA
    lives elsewhere; default is `directory`. Returns a line for the person; raises UserError.
    """
    wanted = server_names(names)
    place = out or directory
    make_directory(place)
    with locked(place):
        ca, ca_key = _load_ca(directory)
        moment = now or datetime.now(UTC)
        reason = _reason_to_issue(place, ca, wanted, moment, EXPIRY_NOTICE if ca_key else timedelta(0))
        if not reason:
            current = load_certificate(place / "server.crt", "server certificate")
            return f"{place / 'server.crt'}: kept, valid until {current.not_valid_after_utc:%Y-%m-%d}"
        return _issue(directory, place, wanted, lifetime, moment)


def renew_server(
    directory: Path,
    *,
    lifetime: timedelta = SERVER_LIFETIME,
    out: Path | None = None,
    now: datetime | None = None,
) -> str:
    """Replace the server's certificate and key by new ones for the same names.

    Clients trust the CA, so nothing changes for them; a running SuperLink uses the new files after a
    restart. Returns a line for the person; raises UserError.
    """
    place = out or directory
    if not (place / "server.crt").exists():
        raise UserError(f"{place / 'server.crt'} does not exist: run `bouquet pki server` first")
    names = certificate_names(load_certificate(place / "server.crt", "server certificate"))
    with locked(place):
        return _issue(directory, place, names, lifetime, now or datetime.now(UTC))


def server_names(names: Iterable[str]) -> list[str]:
    """Return `names` checked and without repetition, followed by `ALWAYS_NAMED`."""
    result: list[str] = []
    for raw in (*names, *ALWAYS_NAMED):
        name = raw.strip().lower().removeprefix("[").removesuffix("]")
        if not _is_address(name):
            if re.fullmatch(r"[0-9.]+", name) or not _HOST_NAME.fullmatch(name):
                raise UserError(
                    f"--name {raw!r} is neither a host name nor an IP address: "
                    "give it as clients dial it, without port or scheme"
                )
        else:
            name = str(ipaddress.ip_address(name))
        if name not in result:
            result.append(name)
    return result


def certificate_names(certificate: x509.Certificate) -> list[str]:
    """Return the host names and addresses that `certificate` speaks for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = names.get_values_for_type(x509.IPAddress)
    return [*hosts, *(str(address) for address in addresses)]


def load_certificate(path: Path, what: str) -> x509.Certificate:
    """Return the first certificate of a PEM file; UserError names the file and what is wrong with it."""
    content = read(path, what)
    if b"PRIVATE KEY" in content:
        raise UserError(
            f"{what} {path} holds a private key: give the certificate, and keep the key where it is"
        )
    try:
        certificate = x509.load_pem_x509_certificate(content)
        certificate.extensions  # noqa: B018 (they are parsed when they are first asked for)
        return certificate
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise UserError(f"{what} {path} is no certificate in PEM form: copy it again, unchanged") from None


def is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    """Whether `ca` issued `certificate`."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def load_private_key(path: Path, what: str) -> ec.EllipticCurvePrivateKey:
    """Return an EC key kept as PEM in a file that only its owner can read."""
    content = read_private(path, what)
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise UserError(f"{what} {path} is no private key in PEM form") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{what} {path} is no elliptic-curve key")
    return key


def _issue(directory: Path, place: Path, names: list[str], lifetime: timedelta, now: datetime) -> str:
    ca, ca_key = _load_ca(directory)
    if ca_key is None:
        raise UserError(
            f"{place / 'server.crt'} has to be made anew, which {directory / 'ca.key'} must sign: "
            "put that file back for this command"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + lifetime, ca.not_valid_after_utc)
    alternatives: list[x509.GeneralName] = [
        x509.IPAddress(ipaddress.ip_address(name)) if _is_address(name) else x509.DNSName(name)
        for name in names
    ]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bouquet SuperLink")])
    certificate = (
        _builder(subject, ca.subject, key.public_key(), now, until)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    # The certificate last: a set-up that dies in between leaves a pair that does not match, which
    # every later look at it notices and `pki server` or `pki renew` mends.
    write_atomically(place / "server.key", _private_pem(key), PRIVATE)
    if place != directory:
        write_atomically(place / "ca.crt", _public_pem(ca), PUBLIC)
    write_atomically(place / "server.crt", _public_pem(certificate), PUBLIC)
    return f"{place / 'server.crt'}: made for {', '.join(names)}, valid until {until:%Y-%m-%d}"


def _reason_to_issue(
    place: Path, ca: x509.Certificate, wanted: list[str], now: datetime, notice: timedelta
) -> str:
    """Say why the server's certificate in `place` cannot be kept; empty where it can."""
    try:
        current = load_certificate(place / "server.crt", "server certificate")
        key = load_private_key(place / "server.key", "server key")
        beside = load_certificate(place / "ca.crt", "CA certificate")
    except UserError as error:
        return str(error)
    if not is_signed_by(current, ca) or beside != ca:
        return "it is signed by another CA"
    if current.public_key() != key.public_key():
        return "it does not fit its key"
    if set(certificate_names(current)) != set(wanted):
        return "its names differ"
    if current.not_valid_after_utc - now < min(notice, ca.not_valid_after_utc - now):
        return "it expires soon"
    return ""


def _load_ca(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey | None]:
    """Return the CA's certificate, and its key unless that is kept elsewhere. Raises UserError."""
    if not (directory / "ca.crt").exists():
        raise UserError(
            f"{directory / 'ca.crt'} does not exist: run `bouquet pki init` for a new CA, "
            "or put the file back where this CA is to be kept"
        )
    certificate = load_certificate(directory / "ca.crt", "CA certificate")
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise UserError(
            f"{directory / 'ca.crt'} expired on {certificate.not_valid_after_utc:%Y-%m-%d}: move ca.* away, "
            "run `bouquet pki init` and `bouquet pki server`, and give every client the new ca.crt"
        )
    if not (directory / "ca.key").exists():
        return certificate, None
    key = load_private_key(directory / "ca.key", "CA key")
    if certificate.public_key() != key.public_key():
        raise UserError(
            f"{directory / 'ca.key'} is not the key of {directory / 'ca.crt'}: put the right one back"
        )
    return certificate, key


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(until)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
