"""A bundle on a simulated cohort it was not trained on: concordance beside the true hazard's, for every combination of
modalities, and whether risks and months spread as the reference's do.

    python benchmarks/simulated_heldout.py resources/demonstration COHORT
    python benchmarks/simulated_heldout.py resources/demonstration COHORT --training TRAINING --work WORK [OPTION ...]

With ``--training``, the cohort that the bundle was trained on, bundles are trained on each lesser combination alone and
stand beside it; they are kept in WORK, and further options are those of ``survfuse train``.
"""

import argparse
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from survfuse.bundle.load import Bundle, load
from survfuse.cli.main import main as survfuse
from survfuse.cohort.read import Cohort, read_cohort
from survfuse.cohort.simulation_file import SIMULATION_FILE
from survfuse.prediction.many import predicted
from survfuse.prediction.predictor import Predictor
from survfuse.prediction.sources import cases_in
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import read_object
from survfuse.survival.metrics import concordance, percentile_interval, resampled
from survfuse.tasks.modalities import combination_name, parse_combination

DRAWS = 200  # of the patients, for the interval of a difference
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--training", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/heldout"))
    options, training = parser.parse_known_args()
    bundle = load(options.bundle)
    hazards = read_object(options.cohort / SIMULATION_FILE, InputError)["log_hazard"]
    print("| modalities | C | trained on these alone | difference (95% interval) | mean risk | spread | beyond |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        for name in bundle.manifest.combinations:
            cohort = read_cohort(options.cohort, Path(cache), modalities=parse_combination(name))
            risks = _risks(bundle, options.cohort, name, Path(cache))
            own = concordance(cohort.times, cohort.events, risks)
            beside = ""
            if options.training is not None and parse_combination(name) != bundle.modalities:
                lesser = _trained(options.training, options.work, name, training)
                alone = _risks(lesser, options.cohort, name, Path(cache))
                beside = f"{concordance(cohort.times, cohort.events, alone):.4f} | {_difference(cohort, risks, alone)}"
            beyond = bundle.calibration.months(risks).beyond.mean()
            spread = f"{risks.mean():+.3f} | {risks.std():.3f} | {beyond:.1%}"
            print(f"| {name} | {own:.4f} | {beside or ' | '} | {spread} |", flush=True)
    truth = concordance(cohort.times, cohort.events, [hazards[patient] for patient in cohort.ids])
    reference = bundle.calibration.reference_risks
    print(f"| true hazard | {truth:.4f} | | | | | |")
    print(f"| reference risks | | | | {reference.mean():+.3f} | {reference.std():.3f} | |")
    print(f"\n{len(cohort.ids)} patients, {cohort.events.sum()} events; C of the risks, beyond: of the last event")


def _risks(bundle: Bundle, cohort: Path, name: str, cache: Path) -> Floats:
    """Risks [n] of a cohort's patients by one combination of modalities."""
    modalities = parse_combination(name)
    with redirect_stdout(sys.stderr):
        cases = cases_in(cohort, bundle, modalities, cache)
        predictions = predicted(Predictor(bundle), cases, len(cases.names), modalities)
    return np.array([prediction.risk for prediction in predictions])


def _trained(cohort: Path, work: Path, name: str, training: list[str]) -> Bundle:
    """A bundle trained on one combination of modalities alone, or the one that an earlier run left."""
    out = work / combination_name(parse_combination(name))
    if not (out / "manifest.json").exists():
        command = ["train", str(cohort), "--out", str(out), "--modalities", *parse_combination(name), *training]
        with redirect_stdout(sys.stderr):
            code = survfuse(command)
        if code:
            raise SystemExit(code)
    return load(out)


def _difference(cohort: Cohort, risks: Floats, alone: Floats) -> str:
    """Concordance of ``risks`` less that of ``alone``, with its interval over the same drawn patients."""

    def measure(of: NDArray[np.int64]) -> list[float]:
        times, events = cohort.times[of], cohort.events[of]
        return [concordance(times, events, risks[of]) - concordance(times, events, alone[of])]

    low, high = percentile_interval(resampled(measure, len(cohort.ids), DRAWS, 0).reshape(-1))
    return f"{measure(np.arange(len(cohort.ids)))[0]:+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
