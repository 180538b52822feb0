"""Pebble, the ACME server for tests, with the DNS server it asks."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.ports import free_port
from tests.support.process import Process

_BUILT = Path(__file__).parents[2] / ".tools" / "bin"
_DEFAULT_VALIDITY = 90 * 24 * 3600


class Pebble:
    """A certificate authority on loopback ports, which stay the same for the object's life.

    ``http_port`` and ``tls_port`` are where it validates http-01 and tls-alpn-01. Every name resolves to 127.0.0.1
    unless told otherwise. ``nonce_reject`` and ``authz_reuse`` are percentages; ``validity_seconds`` is the lifetime
    under the profile ``default``, ``profiles`` adds others by name and lifetime; ``eab`` (key id to base64url key)
    makes external account binding obligatory. ``retry_after`` is what it sends with pending orders, 0 for nothing.
    ``key_algorithm`` is that of its root and intermediate; ``alternate_roots`` more roots sign the intermediate too,
    each for a chain of its own. With ``dns_server`` (address:port) it resolves names there, and what is said below of
    what names resolve to is not for it. Its leaves name ``ocsp_url`` as their responder.

    ``packaged`` takes Debian's version, which knows neither ARI nor profiles.

    A context manager. Its accounts, orders and root last until ``stop``: a Pebble started again knows nobody.
    """

    def __init__(
        self,
        folder: Path,
        *,
        http_port: int,
        tls_port: int | None = None,
        nonce_reject: int = 5,
        authz_reuse: int = 0,
        sleep: bool = False,
        validity_seconds: int | None = None,
        profiles: Mapping[str, int] | None = None,
        eab: Mapping[str, str] | None = None,
        blocklist: Sequence[str] = (),
        retry_after: int = 1,
        key_algorithm: Literal["ecdsa", "rsa"] = "ecdsa",
        alternate_roots: int = 0,
        dns_server: str | None = None,
        ocsp_url: str = "",
        packaged: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.http_port = http_port
        self.tls_port = tls_port or free_port()
        self.ca_bundle = folder / "pebble-https-root.pem"
        self._acme_port, self._management_port = free_port(), free_port()
        self._dns_port, self._dns_management_port = free_port(), free_port()
        self.dns_server = dns_server or f"127.0.0.1:{self._dns_port}"
        """Where it resolves names, as address:port."""
        self._has_own_dns = dns_server is None
        certificate, key = _https_certificate(folder, self.ca_bundle)
        config = {
            "pebble": {
                "listenAddress": f"127.0.0.1:{self._acme_port}",
                "managementListenAddress": f"127.0.0.1:{self._management_port}",
                "certificate": str(certificate),
                "privateKey": str(key),
                "httpPort": self.http_port,
                "tlsPort": self.tls_port,
                "ocspResponderURL": ocsp_url,
                "externalAccountBindingRequired": bool(eab),
                "externalAccountMACKeys": dict(eab or {}),
                "domainBlocklist": list(blocklist),
                "retryAfter": {"authz": retry_after, "order": retry_after},
                "keyAlgorithm": key_algorithm,
                "profiles": {
                    name: {"description": name, "validityPeriod": seconds}
                    for name, seconds in {"default": validity_seconds or _DEFAULT_VALIDITY, **(profiles or {})}.items()
                },
                "certificateValidityPeriod": validity_seconds or 0,  # what Debian's version has instead of profiles
            }
        }
        config_file = folder / "pebble.json"
        config_file.write_text(json.dumps(config, indent=2))
        self._ca = Process(
            [_program("pebble", packaged=packaged), "-config", config_file, "-dnsserver", self.dns_server],
            folder / "pebble.log",
            env={
                "PEBBLE_VA_NOSLEEP": "0" if sleep else "1",
                "PEBBLE_WFE_NONCEREJECT": str(nonce_reject),
                "PEBBLE_AUTHZREUSE": str(authz_reuse),
                "PEBBLE_ALTERNATE_ROOTS": str(alternate_roots),
            },
        )
        self._dns = Process(self._dns_argv(), folder / "pebble-dns.log")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- the CA's life

    def start(self) -> None:
        """Start what doesn't run, and wait until it answers."""
        if self._has_own_dns:
            self._dns.start()
        self._ca.start()
        if self._has_own_dns:
            for port in (self._dns_port, self._dns_management_port):
                self._dns.wait_for_port(port)
        for port in (self._acme_port, self._management_port):
            self._ca.wait_for_port(port)

    def stop(self) -> None:
        """An outage: connections are refused. DNS goes on, with what it was told."""
        self._ca.stop()

    def restart(self) -> None:
        """A new CA on the same ports."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """An outage of the other kind: connections open, and nothing answers."""
        self._ca.pause()

    def resume(self) -> None:
        """After a pause; it knows everything it knew."""
        self._ca.resume()

    def close(self) -> None:
        """Stop all of it."""
        self._ca.stop()
        self._dns.stop()

    # --- what a client needs

    @property
    def directory_url(self) -> str:
        return f"https://127.0.0.1:{self._acme_port}/dir"

    def directory(self) -> Mapping[str, Any]:
        """What it says of itself (RFC 8555 section 7.1.1); not all versions know the same things."""
        content: Mapping[str, Any] = json.loads(self._fetch(self.directory_url))
        return content

    def root_certificate(self, number: int = 0) -> bytes:
        """PEM of a root under which this run issues, its own or an alternate one; not the one in ``ca_bundle``."""
        return self._fetch(f"{self._management_url}/roots/{number}")

    def intermediate_certificate(self) -> bytes:
        """PEM of the certificate that signs the leaves."""
        return self._fetch(f"{self._management_url}/intermediates/0")

    def intermediate_key(self) -> bytes:
        """PEM of the intermediate's key, for a test's OCSP responder. Pebble hands out none but RSA's."""
        return self._fetch(f"{self._management_url}/intermediate-keys/0")

    def revocation_reason(self, certificate: x509.Certificate) -> int | None:
        """Why the certificate was revoked, by RFC 5280's numbers; None where it is valid."""
        answer = json.loads(self._fetch(f"{self._management_url}/cert-status-by-serial/{certificate.serial_number:x}"))
        return answer.get("Reason", 0) if answer["Status"] == "Revoked" else None

    def set_renewal_info(self, certificate: bytes, answer: Mapping[str, object] | str) -> None:
        """What ARI answers for this certificate (PEM) from now on; a string goes out as it is. Not in Debian's."""
        body = answer if isinstance(answer, str) else json.dumps(answer)
        request = {"Certificate": certificate.decode(), "ARIResponse": body}
        self._fetch(f"{self._management_url}/set-renewal-info/", request)

    # --- what it did, over all runs

    @property
    def log(self) -> str:
        return self._ca.text

    def account_count(self) -> int:
        return self.log.count(" accounts in memory")

    def order_count(self) -> int:
        return self.log.count("Added order ")

    def certificate_count(self) -> int:
        return self.log.count("Issued certificate serial ")

    # --- what names resolve to

    def add_servfail(self, name: str) -> None:
        """Every question for this name fails."""
        self._tell_dns("set-servfail", host=_fqdn(name))

    def clear_servfail(self, name: str) -> None:
        self._tell_dns("clear-servfail", host=_fqdn(name))

    def set_addresses(self, name: str, addresses: Sequence[str]) -> None:
        """The name's A records; for an address where nobody listens, 127.0.0.2 or such."""
        self.clear_addresses(name)
        self._tell_dns("add-a", host=_fqdn(name), addresses=list(addresses))

    def clear_addresses(self, name: str) -> None:
        """Back to 127.0.0.1."""
        self._tell_dns("clear-a", host=_fqdn(name))

    def set_txt(self, name: str, value: str) -> None:
        """Add a TXT record, as for dns-01 at ``_acme-challenge.``."""
        self._tell_dns("set-txt", host=_fqdn(name), value=value)

    def clear_txt(self, name: str) -> None:
        """Remove all its TXT records."""
        self._tell_dns("clear-txt", host=_fqdn(name))

    def set_cname(self, name: str, target: str) -> None:
        self._tell_dns("set-cname", host=_fqdn(name), target=_fqdn(target))

    # --- inside

    @property
    def _management_url(self) -> str:
        return f"https://127.0.0.1:{self._management_port}"

    def _dns_argv(self) -> list[str | Path]:
        program = _program("pebble-challtestsrv")
        argv: list[str | Path] = [program, "-dns01", self.dns_server]
        argv += ["-management", f"127.0.0.1:{self._dns_management_port}", "-defaultIPv6", ""]
        argv += ["-http01", "", "-https01", "", "-tlsalpn01", ""]
        usage = subprocess.run([program, "-help"], capture_output=True, check=False)
        if b"-doh " in usage.stderr:  # Debian's version has no such server, and refuses the flag
            argv += ["-doh", ""]
        return argv

    def _tell_dns(self, what: str, **values: str | list[str]) -> None:
        self._fetch(f"http://127.0.0.1:{self._dns_management_port}/{what}", values)

    def _fetch(self, url: str, body: Mapping[str, object] | None = None) -> bytes:
        request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
        trust = ssl.create_default_context(cafile=str(self.ca_bundle))
        no_proxy, https = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        opener = urllib.request.build_opener(no_proxy, https)
        with opener.open(request, timeout=60) as response:
            content: bytes = response.read()
        return content


def _program(name: str, *, packaged: bool = False) -> Path:
    own = [] if packaged else [str(_BUILT)]
    found = shutil.which(name, path=os.pathsep.join([*own, os.environ.get("PATH", "")]))
    if found is None:
        raise RuntimeError(f"{name} is neither in .tools/bin nor in PATH: run `tools/setup test`, or `make test`")
    return Path(found)


def _fqdn(name: str) -> str:
    return name.rstrip(".") + "."


def _https_certificate(folder: Path, ca_bundle: Path) -> tuple[Path, Path]:
    """A certificate for Pebble's own HTTPS, with its key; the root that signed it goes to ``ca_bundle``."""
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test root for Pebble's own HTTPS")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    identifier = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = (
        _builder(root_name, root_name, root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        _builder(x509.Name([]), root_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    ca_bundle.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    certificate_file, key_file = folder / "pebble-https.pem", folder / "pebble-https.key"
    certificate_file.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
