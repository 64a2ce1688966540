"""Mutated inputs by the thousand, and what becomes of them.

    python test/fuzz readers [--runs 20000] [--seed 0] [--only KIND]    every reader, in forked processes
    python test/fuzz jobs [--runs 300] [--seed 0] [--only KIND]         whole jobs
    python test/fuzz coverage json|h5|manifest [--runs 20000]           guided by coverage (atheris)

Ends with a table, and exit code 1 where anything but a sound answer or a named refusal came of an input; such inputs
are kept in build/fuzz. The same seed tries the same inputs.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent), str(Path(__file__).resolve().parent.parent.parent)]
KEEP = Path(__file__).resolve().parent.parent.parent / "build" / "fuzz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="part", required=True)
    for name, runs in (("readers", 20_000), ("jobs", 300)):
        command = commands.add_parser(name)
        command.add_argument("--runs", type=int, default=runs)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--only", metavar="KIND")
    coverage = commands.add_parser("coverage")
    coverage.add_argument("target", choices=("json", "h5", "manifest"))
    coverage.add_argument("--runs", type=int, default=20_000)
    options = parser.parse_args()
    if options.part == "coverage":
        from fuzz.coverage import fuzz

        return fuzz(options.target, options.runs, KEEP)
    from fuzz.processes import Tally, try_all

    if options.part == "readers":
        from fuzz import readers as part
    else:
        from fuzz import jobs as part
    shares, one = part.SHARES, part.outcome
    started, tally = time.monotonic(), Tally()
    chosen = {kind: share for kind, share in shares.items() if options.only in (None, kind)}
    runs = {kind: round(options.runs * share / sum(chosen.values())) for kind, share in chosen.items()}
    try_all(runs, one, options.seed, tally, KEEP)
    return tally.report(started)


if __name__ == "__main__":
    sys.exit(main())
