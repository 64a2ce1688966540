"""A bundle on a simulated cohort it was not trained on: concordance beside the true hazard's, for every combination of
modalities, and whether risks and months spread as the reference's do.

    python benchmarks/simulated_heldout.py resources/demonstration COHORT
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from survfuse.bundle import load
from survfuse.cohort import SIMULATION_FILE, read_cohort
from survfuse.combinations import parts
from survfuse.errors import InputError
from survfuse.files import read_object
from survfuse.metrics import concordance
from survfuse.predict import cohort_risks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cohort", type=Path)
    options = parser.parse_args()
    bundle = load(options.bundle)
    hazards = read_object(options.cohort / SIMULATION_FILE, InputError)["log_hazard"]
    print("| modalities | C | mean risk | spread of risks | beyond the last event |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as cache:
        for name in bundle.manifest.combinations:
            cohort = read_cohort(options.cohort, Path(cache), modalities=parts(name))
            risks = np.array([found.risk for found in cohort_risks(bundle, cohort)])
            found = concordance(cohort.times, cohort.events, risks)
            beyond = bundle.calibration.months(risks).beyond.mean()
            print(f"| {name} | {found:.4f} | {risks.mean():+.3f} | {risks.std():.3f} | {beyond:.1%} |")
    truth = concordance(cohort.times, cohort.events, [hazards[patient] for patient in cohort.ids])
    reference = bundle.calibration.reference_risks
    print(f"| true hazard | {truth:.4f} | | | |")
    print(f"| reference risks | | {reference.mean():+.3f} | {reference.std():.3f} | |")
    print(f"\n{len(cohort.ids)} patients, {cohort.events.sum()} events")


if __name__ == "__main__":
    main()
