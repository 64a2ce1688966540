"""Whether explanations find what simulated hazards depend on, on patients that the bundle was not trained on.

    python benchmarks/explanation.py WORK [--seeds 10] [--family bilinear]

For each seed a cohort is simulated and a bundle trained on it; both stay in WORK. The figures are of new patients:

- AUC by which a score tells tiles of the aggressive phenotype from the others of the same case, genes of the two
  programmes in the hazard from other genes, and variables in the hazard from those that say nothing of it (mean
  magnitude over patients). Scores: contributions, attention, gradient × input, and chance.
- Deletion: how much the risk falls if a case loses its tenth of tiles with the highest score.
- Sanity (Adebayo et al. 2018, arXiv 1810.03292): rank correlation of a case's contributions with those under random
  weights, its mean and its mean magnitude. Tiles of few phenotypes correlate by chance; how much, two sets of random
  weights show.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from survfuse.bundle.load import load
from survfuse.cli.main import main as survfuse
from survfuse.cohort.simulate import draw, gene_structure
from survfuse.explanation.attribution import attribute
from survfuse.explanation.explanation import Explainer, Explanation
from survfuse.inputs.case import Case
from survfuse.networks.build import build
from survfuse.networks.ensemble import Ensemble, Tensors
from survfuse.prediction.predictor import Predictor

PATIENTS, NEW, GENES, TILES = 300, 40, 200, 48
IN_HAZARD, PROXIES = ("age", "stage", "LVI"), ("substage", "BRS")  # variables; proxies follow others
SIZES = ["--bag", "48", "--attention", "24", "--rna", "48", "32", "16", "--rank", "16", "--pairs", "16", "8", "8"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NewCase:
    """A patient that the bundle was not trained on, with the truth."""

    case: Case
    aggressive: NDArray[np.bool_]  # [N]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--family", default="bilinear")
    options = parser.parse_args()
    found: dict[str, list[float]] = {}
    for seed in range(1, options.seeds + 1):
        with redirect_stdout(sys.stderr):
            explainer = trained(options.work, seed, options.family)
        figures = of_seed(explainer, seed)
        for name, value in figures.items():
            found.setdefault(name, []).append(value)
        print(json.dumps({"seed": seed, **figures}), file=sys.stderr, flush=True)
    print("| figure | mean | range over seeds |\n|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {np.mean(values):.3f} | {min(values):.3f} to {max(values):.3f} |")


def trained(work: Path, seed: int, family: str) -> Explainer:
    """The bundle of one seed, trained unless an earlier run left it."""
    cohort, bundle = work / f"cohort-{seed}", work / f"{family}-{seed}"
    if not cohort.exists():
        command = ["simulate", str(cohort), "--patients", str(PATIENTS), "--seed", str(seed)]
        assert survfuse([*command, "--genes", str(GENES), "--tiles", str(TILES)]) == 0
    if not (bundle / "manifest.json").exists():
        command = ["train", str(cohort), "--out", str(bundle), "--fusion", family, "--draws", "10", "--inner", "2"]
        assert survfuse([*command, "--components", "32", *SIZES]) == 0
    return Explainer(Predictor(load(bundle), "cpu"))


def new_cases(seed: int) -> Iterator[NewCase]:
    """Patients of the same structure as the cohort of ``seed``, drawn with another."""
    drawn = draw(NEW, 1000 + seed, GENES, TILES)
    for place, bag in enumerate(islice(drawn.bags, NEW)):
        rna = dict(zip(drawn.symbols, drawn.expression[place].tolist(), strict=True))
        case = Case(features=bag.features, rna=rna, clinical=drawn.clinical[place], name=f"new {place}")
        yield NewCase(case, bag.kinds == 0)


def of_seed(explainer: Explainer, seed: int) -> dict[str, float]:
    """Every figure of one seed's bundle."""
    random = np.random.default_rng(seed)
    tiles: dict[str, list[float]] = {}
    falls: dict[str, list[float]] = {}
    genes: dict[str, list[Floats]] = {}
    variables: list[Floats] = []
    sanity: list[float] = []
    control: list[float] = []
    randomised = [with_random_weights(explainer.predictor.ensemble, number) for number in (seed, 1000 + seed)]
    for new in new_cases(seed):
        explanation = explainer.explain(new.case)
        tensors = explainer.predictor.inputs(new.case).tensors
        by_tile, by_gene = gradient_times_input(explainer.predictor.ensemble, tensors)
        contributions = explanation.attribution.tiles.values
        scores = {
            "contribution": contributions,
            "attention": explanation.attribution.attention,
            "gradient × input": by_tile,
            "chance": random.random(len(contributions)),
        }
        for name, score in scores.items():
            if 0 < new.aggressive.sum() < len(score):
                tiles.setdefault(name, []).append(roc_auc_score(new.aggressive, score))
            falls.setdefault(name, []).append(fall(explainer, new, explanation, score))
        genes.setdefault("contribution", []).append(explanation.attribution.genes.values)
        genes.setdefault("gradient × input", []).append(by_gene)
        variables.append(explanation.attribution.variables.values)
        one, other = (random_map(ensemble, tensors, explainer) for ensemble in randomised)
        sanity.append(spearmanr(contributions, one).statistic)
        control.append(spearmanr(one, other).statistic)
    loading = gene_structure(GENES)[1]
    programme = np.abs(loading[:2]).sum(axis=0) > 0
    names = np.array(explanation.variables)
    judged = ~np.isin(names, PROXIES)
    figures = {f"tiles, AUC: {name}": float(np.mean(values)) for name, values in tiles.items()}
    figures |= {
        f"genes, AUC: {name}": roc_auc_score(programme, np.abs(values).mean(axis=0)) for name, values in genes.items()
    }
    size = np.abs(variables).mean(axis=0)
    figures["variables, AUC: contribution"] = roc_auc_score(np.isin(names, IN_HAZARD)[judged], size[judged])
    figures |= {f"risk falls by, top tenth by {name}": float(np.mean(values)) for name, values in falls.items()}
    return figures | {
        "rank correlation with random weights": float(np.mean(sanity)),
        "its magnitude": float(np.mean(np.abs(sanity))),
        "magnitude between two sets of random weights": float(np.mean(np.abs(control))),
    }


def fall(explainer: Explainer, new: NewCase, explanation: Explanation, score: Floats) -> float:
    """How much a case's risk falls without its tenth of tiles with the highest ``score`` [N]."""
    kept = np.sort(np.argsort(-score)[max(1, round(len(score) / 10)) :])
    lesser = Case(features=new.case.features[kept], rna=new.case.rna, clinical=new.case.clinical, name=new.case.name)
    return explanation.prediction.risk - explainer.predictor.predict(lesser).risk


def gradient_times_input(ensemble: Ensemble, case: Tensors) -> tuple[Floats, Floats]:
    """Gradient × input of a case's risk, summed over each tile's features [N] and for each gene [G]."""
    combination = ensemble.modalities
    scale = ensemble.scale(combination).scale
    tiles, rna = case.tiles.clone().requires_grad_(), case.rna.clone().requires_grad_()
    batch = (tiles[None], rna[None], case.clinical[None])
    risk = sum(
        each.weight.weight / each.weight.scale / scale * each.network(*batch).risk[0]
        for each in ensemble.scoring(combination)
    )
    by_tile, by_gene = torch.autograd.grad(risk, (tiles, rna), allow_unused=True, materialize_grads=True)
    return (by_tile * tiles).sum(dim=1).detach().double().numpy(), (by_gene * rna).detach().double().numpy()


def with_random_weights(ensemble: Ensemble, seed: int) -> Ensemble:
    """The same ensemble with every network's learnt weights as they are before training."""
    torch.manual_seed(seed)
    members = []
    for member in ensemble.members:
        fresh = dict(build(member.family, member.sizes).named_parameters())
        state = {name: fresh[name].detach() if name in fresh else value for name, value in member.state.items()}
        members.append(replace(member, state=state))
    return Ensemble(members, ensemble.combinations)


def random_map(ensemble: Ensemble, case: Tensors, explainer: Explainer) -> Floats:
    """Contributions [N] of a case's tiles under an ensemble of random weights, relative to no slide."""
    reference = replace(explainer.reference, slides=ensemble.absent_slides())
    columns = [len(each.columns()) for each in explainer.predictor.bundle.vocabulary.variables]
    return attribute(ensemble, case, ensemble.pools(case.tiles), reference, columns).tiles.values


if __name__ == "__main__":
    main()
