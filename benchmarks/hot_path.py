"""What a hot ``GET /cert/{name}`` costs in the fast lane, beside the same answer by the ordinary (ASGI) way.

Rounds alternate within one run, so that the machine's mood meets both alike; what counts is the ratio of medians.
Needs ``wrk``.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.server import CertServer

# A query sends the very same question the ordinary way.
LANES = {"fast lane": "/cert/hot.test", "ordinary way": "/cert/hot.test?ordinary=1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing: apt-get install wrk")
    rates: dict[str, list[float]] = {lane: [] for lane in LANES}
    with (
        tempfile.TemporaryDirectory() as folder,
        CertServer(Path(folder), {"local_ca": {"enable": True}}) as server,
    ):
        server.cert("hot.test")
        for _ in range(options.rounds):
            for lane, path in LANES.items():
                url = f"http://127.0.0.1:{server.port}{path}"
                rates[lane].append(requests_per_second(url, options.seconds, options.connections))
    for lane, values in rates.items():
        low, median, high = min(values), statistics.median(values), max(values)
        print(f"{lane:14} {median:10.0f} requests/s (median; {low:.0f} to {high:.0f})")
    fast, ordinary = (statistics.median(values) for values in rates.values())
    print(f"{'ratio':14} {fast / ordinary:10.2f}")


def requests_per_second(url: str, seconds: int, connections: int) -> float:
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in printed:
        sys.exit(f"the server refused:\n{printed}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    assert found, printed
    return float(found.group(1))


if __name__ == "__main__":
    main()
