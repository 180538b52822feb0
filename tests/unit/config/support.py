"""What the tests of the configuration share."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ssl_cert_server.config.load import parse_config
from ssl_cert_server.errors import ConfigError

PREDECESSOR = r"""
listen: "127.0.0.1:8999"
pid_file: "ssl-cert-server.pid"
storage:
  type: dir_cache  # dir_cache | redis
  dir_cache: ./secret-dir
  redis:
    addr: "127.0.0.1:6379"
    prefix: ""
managed:
  - pattern: 'abc\.example\.com'
    cert_key: abc.example.com
lets_encrypt:
  staging: false
  force_rsa: false
  renew_before: 30
  email: "a@example.com"
  domains:
    - site1.example.com
  re_patterns:
    - 'api1-(\w+)\.example\.com'
self_signed:
  enable: false
  check_sni: false
  valid_days: 365
  organization:
    - SSL Cert Server Self-Signed
  cert_key: self_signed
"""


def mistakes(text: str) -> list[str]:
    """Give what is wrong with a configuration as ``line: path: message``."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c")
    return [line.removeprefix("c:") for line in str(caught.value).splitlines()]


def only_mistake(text: str) -> str:
    """Give the one thing that is wrong with a configuration."""
    (mistake,) = mistakes(text)
    return mistake


def write_root(path: Path) -> None:
    """Write a root certificate in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a root")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = builder.not_valid_before(start).not_valid_after(start + timedelta(days=1))
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
