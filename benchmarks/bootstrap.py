"""Seconds that the bootstrap of the training report takes: sample by sample with scikit-survival, and all at once.

    python benchmarks/bootstrap.py [--patients N] [--draws DRAWS] [--families F]

Measures are those of the report: Harrell's concordance of the stack and of each family, the challenge's concordance,
Uno's, three AUCs and two integrated Brier scores. It also prints the largest difference between the two.
"""

import argparse
import time

import numpy as np

from survfuse.runtime.arrays import Floats, Rows
from survfuse.survival import bootstrap, metrics

MONTHS = (12.0, 24.0, 60.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--families", type=int, default=9)
    options = parser.parse_args()
    n, draws = options.patients, options.draws
    random = np.random.default_rng(0)
    hazard = random.normal(size=n)
    own, censoring = random.exponential(60 * np.exp(-hazard)), random.uniform(10, 140, n)
    times, events = np.ceil(np.minimum(own, censoring)), own < censoring
    families = [hazard + random.normal(size=n) for _ in range(1 + options.families)]
    grid = np.arange(1.0, 120.0)
    curves = [np.exp(-np.exp(risks)[:, np.newaxis] * grid / 60) for risks in families[:2]]

    def one(rows: Rows) -> list[float]:
        mine, happened = times[rows], events[rows]
        return [
            *(metrics.concordance(mine, happened, risks[rows]) for risks in families),
            metrics.challenge_concordance(mine, happened, -hazard[rows]),
            metrics.uno_concordance(mine, happened, mine, happened, hazard[rows]),
            *metrics.auc_at(mine, happened, mine, happened, hazard[rows], MONTHS).values(),
            *(metrics.integrated_brier(mine, happened, mine, happened, curve[rows], grid) for curve in curves),
        ]

    start = time.perf_counter()
    together = _together(times, events, hazard, families, grid, curves, draws)
    middle = time.perf_counter()
    single = metrics.resampled(one, n, draws)
    end = time.perf_counter()
    print(f"{draws} samples of {n} patients: one by one {end - middle:.2f} s, at once {middle - start:.2f} s")
    print(f"largest difference {np.nanmax(np.abs(single - together)):.1e}")


def _together(
    times: Floats,
    events: Floats,
    hazard: Floats,
    families: list[Floats],
    grid: Floats,
    curves: list[Floats],
    draws: int,
) -> Floats:
    weights = bootstrap.Draws(len(times), draws).weights
    columns = [
        *(bootstrap.concordances(times, events, risks, weights) for risks in families),
        bootstrap.challenge_concordances(times, events, -hazard, weights),
        bootstrap.uno_concordances(times, events, hazard, weights),
        *bootstrap.aucs(times, events, hazard, weights, MONTHS).T,
        *(bootstrap.integrated_briers(times, events, curve, grid, weights) for curve in curves),
    ]
    return np.stack(columns, axis=1)


if __name__ == "__main__":
    main()
