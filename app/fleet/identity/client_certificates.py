"""The certificate that a client shows in the TLS handshake, over the key that it was enrolled with.

Each enrolled key is its own small CA. The client signs a certificate with its node key, over its node key. The SuperLink
makes a trust anchor from the public key that was enrolled, and asks every connection for a certificate that such an
anchor has signed. So enrolment hands out nothing, the federation's CA need not be at hand, a client renews its
certificate by itself, and a revoked key is refused in the next handshake.

Anchors have an empty name, which keeps the list of names in each handshake short: 4 bytes for each member. The key
identifier tells them apart. Their own signature is never checked, because they are what is trusted.
"""

import functools
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = timedelta(days=30)
_CLOCK_SKEW = timedelta(hours=1)  # clocks of separate hosts differ
_ANCHOR_NAME = x509.Name([])
_CLIENT_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bouquet client")])
_FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # "no well-defined expiration date" of RFC 5280
_LONG_AGO = datetime(1970, 1, 2, tzinfo=UTC)


def client_certificate(
    key: ec.EllipticCurvePrivateKey, *, now: datetime | None = None, any_clock: bool = False
) -> tuple[bytes, bytes]:
    """A client's private key and its certificate, both as PEM, for one TLS channel.

    ``any_clock``: it is valid at all times, for a client that asks how wrong its clock is.
    """
    moment, public = now or datetime.now(UTC), key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_CLIENT_NAME)
        .issuer_name(_ANCHOR_NAME)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_LONG_AGO if any_clock else moment - _CLOCK_SKEW)
        .not_valid_after(_FOREVER if any_clock else moment + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .sign(key, hashes.SHA384())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def trust_anchors(public_keys: Iterable[bytes]) -> bytes:
    """The certificates, as one PEM, by which a server accepts the clients with these public keys (PEM each)."""
    return b"".join(map(_anchor, public_keys))


@functools.lru_cache(maxsize=16384)
def _anchor(public_key: bytes) -> bytes:
    """The trust anchor of one key; empty for what is no elliptic-curve key."""
    try:
        public = serialization.load_pem_public_key(public_key)
    except ValueError:
        return b""
    if not isinstance(public, ec.EllipticCurvePublicKey):
        return b""
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_ANCHOR_NAME)
        .issuer_name(_ANCHOR_NAME)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_LONG_AGO)
        .not_valid_after(_FOREVER)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(_nobody(), hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@functools.cache
def _nobody() -> ec.EllipticCurvePrivateKey:
    """A key that fills the signature of the anchors, which nobody checks."""
    return ec.generate_private_key(ec.SECP256R1())


@functools.lru_cache(maxsize=16384)
def certified_key(certificate: bytes) -> bytes:
    """The public key of a certificate, both as PEM."""
    return (
        x509.load_pem_x509_certificate(certificate)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
