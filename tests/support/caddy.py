"""Caddy's ACME server: a CA that shares no code with Pebble.

Caddy 2.6 validates at ports 80 and 443 only, and resolves names as the system does. It therefore lives in a network and
mount namespace of its own, which a user namespace gives to anybody: there, port 80 and /etc/resolv.conf are ours. Unix
sockets lead in and out, and nothing else does.

Caddy likes to add its roots to the system's trust store. It is told not to for each CA, the implicit ``local`` among
them, and would find empty folders over the store if a version of it did so all the same.
"""

from __future__ import annotations

import datetime
import json
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from tests.support.loop_thread import LoopThread
from tests.support.pebble import _program as find_program
from tests.support.ports import free_port
from tests.support.process import Process
from tests.support.relay import relay, relay_argv

_READY_WITHIN = 60
_OWN_NETWORK = ["unshare", "--map-root-user", "--net", "--mount", "--"]
_STARTED = "Starting management server"
_HTTPS, _ISSUING = "https", "issuing"
_ENTER = """\
set -e
ip link set lo up
mount --bind "$0" /etc/resolv.conf
for store in /usr/local/share/ca-certificates /etc/ssl/certs /etc/pki; do
    if [ -d "$store" ]; then mount -t tmpfs none "$store"; fi
done
exec "$@"
"""


def can_run() -> bool:
    """Whether Caddy is installed, and the system lets us make namespaces."""
    if not all(shutil.which(program) for program in ("caddy", "unshare", "nsenter", "ip", "mount")):
        return False
    return subprocess.run([*_OWN_NETWORK, "true"], capture_output=True, check=False).returncode == 0


class Caddy:
    """A certificate authority that validates http-01 at ``http_port`` of 127.0.0.1, whatever the name.

    Its certificates live for 12 hours: this version can't be told otherwise, and ``short_lived`` makes others.

    A context manager.
    """

    def __init__(self, folder: Path, *, http_port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._http_port, self._acme_port = http_port, free_port()
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._running = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._running.close()

    # --- what a client needs

    @property
    def directory_url(self) -> str:
        return f"https://127.0.0.1:{self._acme_port}/acme/{_ISSUING}/directory"

    @property
    def ca_bundle(self) -> Path:
        """The root of Caddy's own HTTPS; not the one that it issues under."""
        return self._authority(_HTTPS) / "root.crt"

    def root_certificate(self) -> bytes:
        """PEM of the root under which it issues."""
        return (self._authority(_ISSUING) / "root.crt").read_bytes()

    def short_lived(self, name: str, seconds: int) -> bytes:
        """A key and a chain in PEM, as if issued here just now for a lifetime of some seconds."""
        folder = self._authority(_ISSUING)
        intermediate_pem = (folder / "intermediate.crt").read_bytes()
        intermediate = x509.load_pem_x509_certificate(intermediate_pem)
        signer = load_pem_private_key((folder / "intermediate.key").read_bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
        identifier = intermediate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(intermediate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + datetime.timedelta(seconds=seconds))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
            .add_extension(authority, critical=False)
            .sign(signer, hashes.SHA256())
        )
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        return key_pem + leaf.public_bytes(Encoding.PEM) + intermediate_pem

    @property
    def log(self) -> str:
        """What it printed."""
        return (self._folder / "caddy.log").read_text(errors="replace")

    # --- its life

    def _start(self, stack: ExitStack) -> None:
        # Not below the test's folder: the path of a socket has to be short.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="caddy-")))
        outside = LoopThread("Caddy's relays")
        stack.callback(outside.stop)
        ways = {f"127.0.0.1:{self._acme_port}": f"{sockets}/acme", f"{sockets}/http": f"127.0.0.1:{self._http_port}"}
        stack.callback(outside.call, [outside.run(relay(listen, target)).close for listen, target in ways.items()])
        network = stack.enter_context(self._network())
        _wait_until(lambda: _STARTED in network.text, network)
        within = ["nsenter", "--target", str(network.pid), "--user", "--net", "--mount", "--preserve-credentials", "--"]
        inward = relay_argv("127.0.0.1:80", f"{sockets}/http")
        stack.enter_context(Process([*within, *inward], self._folder / "port-80.log"))
        config, home = self._folder / "caddy.json", str(self._folder)
        config.write_text(json.dumps(self._config(f"unix/{sockets}/acme")))
        caddy = Process(
            [*within, "caddy", "run", "--config", str(config)],
            self._folder / "caddy.log",
            env={"HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home},
        )
        stack.enter_context(caddy)
        _wait_until(self._answers, caddy)

    def _network(self) -> Process:
        """The namespaces, kept by the DNS server in them, which knows every name as 127.0.0.1."""
        resolv_conf = self._folder / "resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.1\n")
        argv: list[str | Path] = [*_OWN_NETWORK, "sh", "-c", _ENTER, resolv_conf, *_dns_argv()]
        return Process(argv, self._folder / "dns.log")

    def _config(self, listen: str) -> dict[str, Any]:
        acme = {
            "listen": [listen],
            "automatic_https": {"disable": True},
            "tls_connection_policies": [{"default_sni": "127.0.0.1"}],
            "routes": [{"handle": [{"handler": "acme_server", "ca": _ISSUING}]}],
        }
        authorities = {name: {"install_trust": False} for name in (_HTTPS, _ISSUING, "local")}
        https = {"subjects": ["127.0.0.1"], "issuers": [{"module": "internal", "ca": _HTTPS}]}
        return {
            "admin": {"disabled": True},
            "storage": {"module": "file_system", "root": str(self._folder / "storage")},
            "apps": {
                "pki": {"certificate_authorities": authorities},
                "tls": {"certificates": {"automate": ["127.0.0.1"]}, "automation": {"policies": [https]}},
                "http": {"servers": {"acme": acme}},
            },
        }

    def _authority(self, name: str) -> Path:
        return self._folder / "storage" / "pki" / "authorities" / name

    def _answers(self) -> bool:
        try:
            trust = ssl.create_default_context(cafile=str(self.ca_bundle))
            handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
            with urllib.request.build_opener(*handlers).open(self.directory_url, timeout=5):
                return True
        except OSError:
            return False


def _wait_until(condition: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + _READY_WITHIN
    while not condition():
        if not process.running or time.monotonic() > deadline:
            raise RuntimeError(f"{process.argv} is not ready. It printed:\n{process.text[-4000:]}")
        time.sleep(0.05)


def _dns_argv() -> list[str | Path]:
    program = find_program("pebble-challtestsrv")
    argv: list[str | Path] = [program, "-dns01", "127.0.0.1:53", "-management", "127.0.0.1:8055", "-defaultIPv6", ""]
    argv += ["-http01", "", "-https01", "", "-tlsalpn01", ""]
    usage = subprocess.run([program, "-help"], capture_output=True, check=False)
    return [*argv, "-doh", ""] if b"-doh " in usage.stderr else argv  # Debian's version refuses that flag
