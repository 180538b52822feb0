"""Run the simulation, print what came of it, and draw it where matplotlib is there."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from benchmarks.simulation.ca import DAY
from benchmarks.simulation.scenario import Outcome, Scenario, simulate


def main() -> None:
    standard = Scenario()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--names", type=int, default=standard.names)
    parser.add_argument("--days", type=int, default=standard.days)
    parser.add_argument("--new-names", type=int, default=standard.new_names, help="every day")
    parser.add_argument("--seed", type=int, default=standard.seed)
    parser.add_argument(
        "--figure", type=Path, help="where to draw it, as SVG; needs matplotlib (requirements-plots.lock)"
    )
    options = parser.parse_args()
    began = time.monotonic()
    outcome = simulate(Scenario(names=options.names, days=options.days, new_names=options.new_names, seed=options.seed))
    for what, value in table(outcome):
        print(f"{what:58} {value:>12}")
    print(f"{'computed in':58} {time.monotonic() - began:>10.0f} s")
    if options.figure:
        from benchmarks.simulation.figure import draw  # the table needs no matplotlib

        draw(outcome, options.figure)
    if outcome.expired or outcome.ca.refused or outcome.ca.overdrawn:
        sys.exit("a limit was overrun, or a certificate expired that need not have")


def table(outcome: Outcome) -> list[tuple[str, str]]:
    """Give what is worth knowing, in words and figures."""
    ca = outcome.ca
    rows = [
        ("names at the start", f"{outcome.scenario.names:,}"),
        ("renewals", f"{outcome.renewals:,}"),
        ("first certificates", f"{outcome.first_certificates:,}"),
        ("orders that the CA counted as new", f"{ca.orders['new']:,}"),
        ("orders that the CA counted as renewals", f"{ca.orders['renewal']:,}"),
        ("failed validations of dead names", f"{ca.failed:,}"),
        ("refused by the CA's limits (429)", f"{ca.refused.total():,}"),
        ("refused by the CA for no reason (429, injected)", f"{ca.injected:,}"),
        ("issued past a limit", f"{ca.overdrawn.total():,}"),
        ("living certificates that expired", f"{outcome.expired:,}"),
        ("dead names' certificates that expired", f"{outcome.expired_dead:,}"),
        ("least time left when a living one was renewed, days", f"{outcome.least_left / DAY:.1f}"),
        ("living certificates that were to be replaced at once", f"{outcome.revoked:,}"),
    ]
    if outcome.replaced_after:
        rows += [
            (
                f"- {share} % of those that were, replaced within, hours",
                f"{_quantile(outcome.replaced_after, share) / 3600:.1f}",
            )
            for share in (50, 90, 100)
        ]
    if outcome.waited:
        rows += [
            (f"- {share} % of new names had a certificate within, s", f"{_quantile(outcome.waited, share):.0f}")
            for share in (50, 99)
        ]
    rows.append(("living new names without one after a day", f"{outcome.never_issued:,}"))
    return rows


def _quantile(values: list[float], percent: int) -> float:
    return max(values) if percent == 100 else statistics.quantiles(values, n=100)[percent - 1]


if __name__ == "__main__":
    main()
