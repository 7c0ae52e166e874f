"""A client's certificate over its node key; the handshakes themselves are in tests/attacks."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.fleet.identity.client_certificates import (
    LIFETIME,
    certified_key,
    client_certificate,
    trust_anchors,
)


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_a_certificate_is_over_the_node_key_and_signed_with_it() -> None:
    key, now = ec.generate_private_key(ec.SECP384R1()), datetime.now(UTC)
    _, pem = client_certificate(key, now=now)
    certificate = x509.load_pem_x509_certificate(pem)
    [anchor] = x509.load_pem_x509_certificates(trust_anchors([_pem(key)]))
    certificate.verify_directly_issued_by(anchor)
    assert certified_key(pem) == _pem(key)
    assert certificate.not_valid_before_utc < now
    assert abs(certificate.not_valid_after_utc - now - LIFETIME).total_seconds() < 2


def test_there_is_an_anchor_for_each_key_and_none_for_anything_else() -> None:
    keys = [_pem(ec.generate_private_key(ec.SECP384R1())) for _ in range(3)]
    others = [b"", b"no key", _pem(ed25519.Ed25519PrivateKey.generate())]
    anchors = x509.load_pem_x509_certificates(trust_anchors([*others, *keys]))
    found = [a.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for a in anchors]
    assert found == keys
