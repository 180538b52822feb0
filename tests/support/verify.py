"""What a client checks of an answer before it serves it."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from tests.support.server import Reply


def verified_leaf(reply: Reply, name: str, root_pem: bytes, *, names: Sequence[str] | None = None) -> x509.Certificate:
    """Check an answer of ``/cert/`` against a root, as a browser would, and every field against the leaf.

    The certificate is for ``names``, or where they aren't given for ``name`` alone.
    """
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    answer = reply.json
    assert list(answer) == ["type", "cert", "pkey", "fingerprint", "expire_at", "ttl"]
    chain = x509.load_pem_x509_certificates(answer["cert"].encode())
    leaf = chain[0]
    store = Store([x509.load_pem_x509_certificate(root_pem)])
    now = datetime.datetime.now(datetime.UTC)
    verifier = PolicyBuilder().store(store).time(now).build_server_verifier(_subject(name))
    verifier.verify(leaf, chain[1:])
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sorted(str(other.value) for other in found) == sorted(names or [name])
    key = load_pem_private_key(answer["pkey"].encode(), None)
    spki = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.public_key().public_bytes(*spki) == leaf.public_key().public_bytes(*spki)
    assert answer["fingerprint"] == leaf.fingerprint(hashes.SHA1()).hex()
    assert reply.headers["etag"] == f'"{answer["fingerprint"]}"'
    assert answer["expire_at"] == int(leaf.not_valid_after_utc.timestamp())
    return leaf


def _subject(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
