"""The whole flow on one machine: a CA, the server, nginx with the plugin, and a visitor. See `make demo`."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.fleet import Fleet
from tools.output import say, stop_at_unwritable_output


def main() -> None:
    with stop_at_unwritable_output():
        _demo()


def _demo() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # A shell starts what runs in its background with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="ssl-cert-server-demo-") as folder:
        say("Starting a CA (Pebble), the server, and nginx with the plugin ...")
        with Fleet(Path(folder), retry_after=0) as fleet:
            _show(fleet, Path(folder))
            say("\nCtrl-C ends the demo.")
            try:
                signal.pause()
            except KeyboardInterrupt:
                say("\nStopping everything.")


def _show(fleet: Fleet, folder: Path) -> None:
    root = folder / "root.pem"
    root.write_bytes(fleet.pebble.root_certificate())
    name = f"shop-{secrets.token_hex(3)}.example.com"
    say(f"\n{name} has no certificate yet. A visitor comes, who trusts nothing but the CA's root:\n")
    url = f"https://{name}:{fleet.nginx.https_port}/"
    curl = ["curl", "-sS", "--cacert", str(root), "--resolve", f"{name}:{fleet.nginx.https_port}:127.0.0.1", url]
    say(f"  $ {' '.join(curl)}")
    first = _visit(curl)
    second = _visit(curl)
    say(f"\n  first handshake   {first * 1000:7.1f} ms   ordered, validated, issued, stored, served")
    say(f"  second handshake  {second * 1000:7.1f} ms   from nginx's memory")
    say(f"\nTry other names under example.com; the server listens on http://127.0.0.1:{fleet.server.port}")


def _visit(curl: list[str]) -> float:
    """Visit, print what came, and return the seconds until the handshake was done, connecting included."""
    done = subprocess.run([*curl, "-w", "%{time_appconnect}"], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the visit failed: {done.stderr}")
    body, _, seconds = done.stdout.rpartition("\n")
    say(f"  {body}")
    return float(seconds)


if __name__ == "__main__":
    main()
