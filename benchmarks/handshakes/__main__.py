"""What the plugin costs a full TLS 1.3 handshake, beside the same certificate set in nginx's configuration.

One worker of one nginx serves all ways, each at a port of its own, in rounds that alternate. What counts is the
worker's CPU time per handshake: clients on the same machine would otherwise be what is measured. Then the worker's
memory, with one name and with many.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.server import CertServer

from benchmarks.handshakes.client import Clients

TEMPLATE = Path(__file__).with_name("nginx.conf.template")
ONE = ["hot.test"]


@dataclass(slots=True)
class Way:
    """A way to a certificate: a port, the names that are asked for, and what each round measured."""

    label: str
    port: int
    names: list[str]
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=max(2, (os.cpu_count() or 2) - 1))
    options = parser.parse_args()
    many = [f"n{number}.test" for number in range(options.names)]
    with (
        tempfile.TemporaryDirectory() as folder,
        Clients(options.clients) as clients,
        CertServer(Path(folder, "server"), {"local_ca": {"enable": True}}) as server,
    ):
        prefix = Path(folder, "nginx")
        prefix.mkdir()
        write_static(server, prefix)
        ports = {name: free_port() for name in ("EMPTY_PORT", "WARM_PORT", "COLD_PORT")}
        template = TEMPLATE.read_text()
        for name, port in ports.items():
            template = template.replace(f"@{name}@", str(port))
        with Nginx(prefix, backend=f"127.0.0.1:{server.port}", workers=1, template=template) as nginx:
            ways = [
                Way("static certificate", nginx.https_port, ONE),
                Way("empty hook", ports["EMPTY_PORT"], ONE),
                Way("plugin, warm LRU", ports["WARM_PORT"], ONE),
                Way(f"plugin, warm LRU, {options.names} names", ports["WARM_PORT"], many),
                Way("plugin, shared dictionary only", ports["COLD_PORT"], many[:100]),
            ]
            measure(nginx, clients, ways, options.rounds, options.seconds)
    print_table(ways)


def write_static(server: CertServer, prefix: Path) -> None:
    """The very certificate that the plugin gives, for nginx's own configuration."""
    answer = server.cert(ONE[0]).json
    (prefix / "static.pem").write_text(answer["cert"])
    (prefix / "static.key").write_text(answer["pkey"])


def measure(nginx: Nginx, clients: Clients, ways: list[Way], rounds: int, seconds: float) -> None:
    worker = worker_of(nginx.pid)
    for way in ways[:3]:
        clients.shake(way.port, way.names)
    before = resident(worker)
    started = time.monotonic()
    clients.shake(ways[3].port, ways[3].names)
    print(f"{len(ways[3].names)} names fetched in {time.monotonic() - started:.0f} s")
    clients.shake(ways[4].port, ways[4].names)
    grown = resident(worker) - before
    print(f"memory of the worker: {before / 1e6:.0f} MB with one name, {grown / 1e6:.0f} MB more with all")
    for number in range(rounds):
        for way in ways if number % 2 else reversed(ways):
            cpu, begun = cpu_of(worker), time.monotonic()
            made = clients.shake(way.port, way.names, seconds)
            way.rates.append(made / (time.monotonic() - begun))
            way.costs.append((cpu_of(worker) - cpu) / made)
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)


def print_table(ways: list[Way]) -> None:
    static = statistics.median(ways[0].costs)
    for way in ways:
        cost, rate = statistics.median(way.costs), statistics.median(way.rates)
        low, high = min(way.costs), max(way.costs)
        print(
            f"{way.label:36} {1e6 * cost:7.1f} us of CPU ({1e6 * low:.0f} to {1e6 * high:.0f}), "
            f"{1 / cost:6.0f} per CPU second, {static / cost:.3f} of static; {rate:.0f}/s with these clients"
        )


def worker_of(master: int) -> int:
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return int(children[0])


def cpu_of(pid: int) -> float:
    """CPU seconds that a process has had so far; the scheduler counts nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def resident(pid: int) -> int:
    """Bytes of a process's own memory: what is shared with others is not counted."""
    return sum(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )


if __name__ == "__main__":
    main()
