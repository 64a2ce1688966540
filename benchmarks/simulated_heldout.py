"""Concordance of a bundle on a simulated cohort it was not trained on, beside that of the true hazard.

python benchmarks/simulated_heldout.py resources/demonstration COHORT
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from survfuse.bundle import load, load_members
from survfuse.cohort import SIMULATION_FILE, read_cohort
from survfuse.ensemble import Ensemble
from survfuse.errors import InputError
from survfuse.files import read_object
from survfuse.metrics import concordance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("cohort", type=Path)
    options = parser.parse_args()
    bundle, cohort = load(options.bundle), read_cohort(options.cohort)
    ensemble = Ensemble(load_members(bundle))
    genes = {gene: place for place, gene in enumerate(cohort.genes)}
    order = [genes[gene] for gene in bundle.expression.genes]
    risks, members = [], []
    for bag, expression, variables in zip(cohort.bags, cohort.expression, cohort.clinical, strict=True):
        rna = torch.from_numpy(bundle.expression.transformed(expression[order]))
        found = ensemble(bag, rna, torch.from_numpy(bundle.vocabulary.encode(variables).values))
        risks.append(found.risk)
        members.append(found.member_risks.numpy())
    months = bundle.calibration.months(risks)
    hazards = read_object(options.cohort / SIMULATION_FILE, InputError)["log_hazard"]
    truth = np.array([hazards[name] for name in cohort.ids])
    outcomes = (cohort.times, cohort.events)
    single = [concordance(*outcomes, risk) for risk in np.array(members).T]
    print(f"patients {len(cohort.ids)}, events {cohort.events.sum()}")
    print(f"C of the ensemble's risks      {concordance(*outcomes, risks):.4f}")
    print(f"C of the predicted months      {concordance(*outcomes, -months.months):.4f}")
    print(f"C of single members            {np.mean(single):.4f} (lowest {min(single):.4f}, highest {max(single):.4f})")
    print(f"C of the true hazard           {concordance(*outcomes, truth):.4f}")
    print(f"beyond the last observed event {months.beyond.mean():.1%}")
    print(f"ensemble risk, mean and spread {np.mean(risks):+.3f}, {np.std(risks):.3f}")
    print(
        f"reference risks, the same      {bundle.calibration.reference_risks.mean():+.3f}, "
        f"{bundle.calibration.reference_risks.std():.3f}"
    )


if __name__ == "__main__":
    main()
