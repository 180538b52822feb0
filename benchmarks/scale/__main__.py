"""Measure each backend at each size, print a table, and draw it where matplotlib is there."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import astuple
from pathlib import Path

from benchmarks.scale import stores
from benchmarks.scale.measure import Figures, measure

_KINDS = ("directory", "redis", "postgres")
_SIZES = (1_000, 10_000, 100_000, 1_000_000)
_HEAD = (
    "backend", "certificates", "first answer, s", "memory, MB", "after 20,000 names, MB", "cold, ms", "hot, ms",
    "idle, % of a core", "CPU per renewal, ms",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--backend", choices=_KINDS, action="append")
    parser.add_argument("--size", type=int, action="append")
    parser.add_argument("--idle", type=float, default=30.0, help="seconds for which idling is measured")
    parser.add_argument("--figure", type=Path, help="where to draw it, as SVG; needs matplotlib")
    options = parser.parse_args()
    rows: dict[tuple[str, int], Figures] = {}
    print("|", " | ".join(_HEAD), "|")
    print("|---" * len(_HEAD) + "|")
    for kind in options.backend or _KINDS:
        with (
            tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
            stores.backend(kind, Path(folder)) as section,
        ):
            have = 0
            for size in sorted(options.size or _SIZES):
                stores.fill(section, have, size)
                have = size
                figures = measure(section, size, Path(folder) / f"server-{size}", idle_for=options.idle)
                rows[kind, size] = figures
                cells = " | ".join(f"{value:.2f}" for value in astuple(figures))
                print(f"| {kind} | {size:,} | {cells} |", flush=True)
    if options.figure:
        from benchmarks.scale.figure import draw  # the table needs no matplotlib

        draw(rows, options.figure)


if __name__ == "__main__":
    main()
