"""A real nginx (Debian's with the Lua module, or OpenResty) on loopback, for tests and the demo."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "examples" / "nginx" / "nginx.conf.template"
LUA_PATH = ROOT / "clients" / "openresty" / "lib"
MODULE_FOLDERS = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))
MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")  # in the order nginx needs
START_TIMEOUT = 60.0


class NginxUnavailableError(RuntimeError):
    """This machine has no nginx with Lua, or it does not start; the message says what to install or what nginx said."""


def find_nginx() -> tuple[str, str]:
    """The path of the binary and the load_module lines it needs."""
    openresty = shutil.which("openresty")
    if openresty:
        return openresty, ""
    nginx = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    for folder in MODULE_FOLDERS:
        if nginx and all((folder / module).exists() for module in MODULES):
            return nginx, "\n".join(f"load_module {folder / module};" for module in MODULES)
    message = "no nginx with Lua: install nginx and libnginx-mod-http-lua (Debian), or OpenResty"
    raise NginxUnavailableError(message)


def render(template: str, values: Mapping[str, str]) -> str:
    """`template` with each @NAME@ replaced; its comment lines stay as they are."""
    lines = []
    for line in template.splitlines(keepends=True):
        if not line.lstrip().startswith("#"):
            for name, value in values.items():
                line = line.replace(f"@{name}@", value)
        lines.append(line)
    return "".join(lines)


def write_fallback(folder: Path) -> bytes:
    """Writes fallback.pem and fallback.key, a self-signed pair, and returns the certificate's DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fallback.invalid")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    (folder / "fallback.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "fallback.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate.public_bytes(serialization.Encoding.DER)


class Nginx:
    """nginx with the plugin, from the example configuration; a context manager.

    `prefix` is an existing empty folder, which everything nginx writes goes into. `backend` and `options` are the
    plugin's; `allow` is the Lua body of allow_domain; `init` and `servers` are more Lua and more server blocks.
    `template` is another configuration with the same @NAME@s, of which it need not use all.
    """

    stop_timeout = 3.0
    """Seconds for open connections to finish."""

    def __init__(
        self,
        prefix: Path,
        *,
        backend: str,
        allow: str = 'return domain:find("example%.com$") ~= nil',
        options: str = "",
        init: str = "",
        servers: str = "",
        workers: int = 2,
        template: str | None = None,
    ) -> None:
        self.prefix = prefix
        self.https_port = 0
        self.http_port = 0
        self.fallback_der = b""
        self._template = template if template is not None else TEMPLATE.read_text()
        self._values = {
            "BACKEND": backend,
            "ALLOW": allow,
            "OPTIONS": options,
            "INIT": init,
            "SERVERS": servers,
            "WORKERS": str(workers),
            "LUA_PATH": str(LUA_PATH),
            "USER": "user root;" if os.geteuid() == 0 else "",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def error_log(self) -> str:
        """What nginx has logged so far."""
        path = self.prefix / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The master process's."""
        if self._process is None:
            message = "nginx is not running"
            raise NginxUnavailableError(message)
        return self._process.pid

    def start(self) -> None:
        """Starts nginx and returns once it accepts connections."""
        binary, modules = find_nginx()
        (self.prefix / "temp").mkdir(exist_ok=True)
        self.fallback_der = write_fallback(self.prefix)
        for attempts_left in (2, 1, 0):
            self.https_port, self.http_port = free_port(), free_port()
            ports = {"HTTPS_PORT": str(self.https_port), "HTTP_PORT": str(self.http_port)}
            values = {**self._values, **ports, "MODULES": modules}
            (self.prefix / "nginx.pid").unlink(missing_ok=True)
            config = self.prefix / "nginx.conf"
            config.write_text(render(self._template, values))
            with (self.prefix / "output.log").open("ab") as output:
                self._process = subprocess.Popen(
                    [binary, "-p", f"{self.prefix}/", "-c", str(config), "-e", "error.log"],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            try:
                self._wait_until_it_accepts()
            except NginxUnavailableError as error:
                self.stop()
                if attempts_left and "Address already in use" in str(error):
                    continue  # another process was quicker to take the port
                raise
            return

    def workers(self) -> list[int]:
        """The worker processes."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def reload(self) -> None:
        """Asks for new workers with the configuration as it is on disk; returns at once."""
        os.kill(self.pid, signal.SIGHUP)

    def stop(self) -> None:
        """Lets open connections finish for a moment, then ends nginx."""
        process, self._process = self._process, None
        if process is None:
            return
        for number in (signal.SIGQUIT, signal.SIGTERM):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(self.stop_timeout)
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the workers too: the session is our own
        process.wait()

    def _wait_until_it_accepts(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            if (self.prefix / "nginx.pid").exists():  # written once nginx has bound its ports
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.https_port), timeout=1):
                    return
            time.sleep(0.02)
        output = (self.prefix / "output.log").read_text(errors="replace")
        message = f"nginx did not start:\n{output}{self.error_log}"
        raise NginxUnavailableError(message)


class CheckedNginx(Nginx):
    """nginx whose log must be clean, in the end, of what it must never hold.

    An asynchronous context manager, too, so that a server in the test's own loop still answers while nginx ends.
    """

    stop_timeout = 60.0  # whoever isn't let finish leaves sockets open, which nginx logs as an alert

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        super().stop()
        log = self.error_log
        assert "PRIVATE KEY" not in log
        for mark in ("[emerg]", "[alert]", "[crit]", "runtime error", "internal error", "stale global SSL error"):
            assert mark not in log, log
