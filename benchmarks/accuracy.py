"""Held-out concordance of every family and of the stack: simulated cohorts, real ones, the task's own outcomes.

    python benchmarks/accuracy.py simulated RESULTS [--seeds 5]     176 training and 200 test patients a cohort
    python benchmarks/accuracy.py real RESULTS [--repeats 10]       SurvSet's gse1992, scikit-survival's breast cancer
    python benchmarks/accuracy.py baselines RESULTS [--repeats 10]  scikit-survival's models on the same folds
    python benchmarks/accuracy.py sampling RESULTS [--seeds 5]      32 tiles drawn for each step against all 256
    python benchmarks/accuracy.py task REFERENCE_DATA               CHIMERA Task 3's outcomes, the reference's risks
    python benchmarks/accuracy.py tables RESULTS                    the tables of README.md

RESULTS is a folder: one JSON file for each cohort and seed, so a run that was stopped goes on. The real cohorts need
the packages of the extra ``benchmark``.
"""

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from survfuse.cohort.bags import Bag
from survfuse.cohort.read import Cohort
from survfuse.cohort.simulate import draw, drawn_phenotypes
from survfuse.inputs.expression import IDENTITY
from survfuse.networks.build import build
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.files import write_json
from survfuse.survival.calibration import CONTINUOUS, RANK, Calibration
from survfuse.survival.metrics import concordance, corrected_difference, paired_difference
from survfuse.tasks.modalities import Combination
from survfuse.tasks.registry import DEFAULT
from survfuse.training.fit_networks import inner_sizes
from survfuse.training.folds import nested_splits
from survfuse.training.member import TrainedMember
from survfuse.training.member_risks import network_risks
from survfuse.training.protocol import CANDIDATES, Optimisation, Protocol
from survfuse.training.stacking import Stacked, stack
from survfuse.training.state import TrainingState
from survfuse.training.trainer import Trainer
from survfuse.training.training_data import TrainingData, known_modalities, training_data
from survfuse.workers.executor import LocalExecutor

Floats = NDArray[np.float64]
CPU = torch.device("cpu")
FAMILIES = families_of(DEFAULT.modalities)
# Narrower networks than the paper's, and shorter tile features: 176 patients do not fill the paper's, and fifteen
# cohorts of every family are to be done in an hour.
SIZES = Sizes(bag=64, attention=32, rna=(64, 32, 16), rank=16, pairs=(16, 8, 8), hidden=32, embedding=8, fused=16)
OPTIMISATION = Optimisation(learning_rate=1e-3, epochs=150)
TILE_FEATURES, TILES = 128, 24
TRAINING, TEST = 176, 200
SETTLED_SEEDS, SETTLED_REPEATS = 2, 5  # the first ones, on which choices of the stack were made
INTERACTIONS = {"none": 0.0, "moderate": 1.0, "strong": 2.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("simulated", "real", "baselines", "sampling", "task", "tables"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    if options.part == "simulated":
        for seed in range(1, options.seeds + 1):
            for name, strength in INTERACTIONS.items():
                _once(options.folder / f"simulated-{name}-{seed}.json", lambda s=seed, x=strength: simulated(s, x))
    elif options.part == "real":
        for seed in range(options.repeats):
            for name, load in (("gse1992", gse1992), ("breast-cancer", breast_cancer)):
                _once(options.folder / f"real-{name}-{seed}.json", lambda s=seed, cohort=load: real(cohort(), s))
    elif options.part == "baselines":
        for seed in range(options.repeats):
            for name, load in (("gse1992", gse1992), ("breast-cancer", breast_cancer)):
                _once(
                    options.folder / f"baselines-{name}-{seed}.json", lambda s=seed, cohort=load: baselines(cohort(), s)
                )
    elif options.part == "sampling":
        for seed in range(1, options.seeds + 1):
            _once(options.folder / f"sampling-{seed}.json", lambda s=seed: sampling(s))
    elif options.part == "task":
        task(options.folder)
    else:
        tables(options.folder)


def _once(path: Path, run: Callable[[], dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, run())
    print(path.name, flush=True)


def trained(
    cohort: Cohort, protocol: Protocol, families: Sequence[str] | None = None
) -> tuple[TrainingData, list[TrainedMember]]:
    """Members of ``families`` (default: the candidates) on every split, without output on the way."""
    data = training_data(cohort, protocol, SIZES)
    if families is not None:
        data = replace(data, families={name: FAMILIES[name] for name in families})
    with tempfile.TemporaryDirectory() as work, contextlib.redirect_stdout(io.StringIO()):
        return data, Trainer(data, TrainingState(Path(work), data, CPU), LocalExecutor(CPU)).members()


# 1. Simulated


def _drawn(seed: int, tiles: int, interaction: float) -> tuple[Cohort, Cohort, Floats]:
    """Training patients, test patients, and the test patients' true hazard."""
    drawn = draw(TRAINING + TEST, seed, None, tiles, interaction, drawn_phenotypes(TILE_FEATURES))
    bags = tuple(Bag.of(torch.from_numpy(features)) for features, _ in drawn.bags)

    def part(rows: slice) -> Cohort:
        times, events = drawn.times[rows].astype(float), drawn.events[rows]
        ids, clinical = tuple(map(str, range(len(times)))), tuple(drawn.clinical[rows])
        return Cohort(
            ids, times, events, bags[rows], tuple(drawn.symbols), drawn.expression[rows], clinical, True, None
        )

    return part(slice(0, TRAINING)), part(slice(TRAINING, None)), drawn.log_hazard[TRAINING:]


def simulated(seed: int, interaction: float) -> dict:
    """C of each family, the stack and the true hazard on test patients, and nested held-out C in training."""
    training, test, hazard = _drawn(seed, TILES, interaction)
    data, members = trained(training, Protocol(seed=seed, optimisation=OPTIMISATION), list(FAMILIES))
    risks = new_risks(data, members, test)
    stacks = {family: _stacked(members, [family], training) for family in FAMILIES}
    stacks["stack"] = _stacked(members, CANDIDATES, training)
    found = {
        name: {
            "test": concordance(test.times, test.events, _ensemble(of, risks)),
            "held_out": concordance(training.times, training.events, of.reference),
            "spread": float(np.std(_ensemble(of, risks))),
        }
        for name, of in stacks.items()
    }
    truth = concordance(test.times, test.events, hazard)
    return {"families": found, "true_hazard": truth, "events": int(training.events.sum())}


def sampling(seed: int) -> dict:
    """C of the bilinear family with all of about 256 tiles in each step, and with 32 of them."""
    training, test, _ = _drawn(seed, 256, INTERACTIONS["moderate"])
    found = {}
    for tiles in (32, 512):
        protocol = Protocol(seed=seed, optimisation=replace(OPTIMISATION, tiles=tiles))
        data, members = trained(training, protocol, ["bilinear"])
        of = _stacked(members, ["bilinear"], training)
        found["all" if tiles == 512 else str(tiles)] = {
            "test": concordance(test.times, test.events, _ensemble(of, new_risks(data, members, test))),
            "held_out": concordance(training.times, training.events, of.reference),
        }
    return found


def _stacked(members: Sequence[TrainedMember], families: Sequence[str], cohort: Cohort) -> Stacked:
    chosen = [member.member_risks() for member in members if member.family.name in families]
    return stack(chosen, known_modalities(cohort), cohort.times, cohort.events)


def new_risks(data: TrainingData, members: Sequence[TrainedMember], test: Cohort) -> dict[tuple[str, str], Floats]:
    """Each member's risk of each new patient [n], by family and split."""
    rna = data.expression.transformed(test.expression).astype(np.float64)
    clinical = np.stack([data.vocabulary.encode(patient).values for patient in test.clinical]).astype(np.float64)
    everyone, risks, inputs = range(len(test.ids)), {}, {}
    for member in members:
        split = member.split
        if split.name not in inputs:
            maps = data.maps(split)
            inputs[split.name] = {"rna": maps.expression.apply(rna), "clinical": maps.clinical.apply(clinical)}
        sizes = data.family_sizes(member.family)
        network = build(member.family, inner_sizes(sizes))
        network.load_state_dict(member.fitted.state)
        own: Combination = network.modalities
        given = inputs[split.name] | {"rna": inputs[split.name]["rna"][:, : sizes.components]}
        scored = network_risks(network, test.bags, given, [own], everyone, CPU)
        risks[member.family.name, split.name] = scored[own].numpy()
    return risks


def _ensemble(stacked: Stacked, risks: Mapping[tuple[str, str], Floats]) -> Floats:
    """The frozen ensemble's risk [n] of new patients."""
    total = sum(s.weight * (risks[key] - s.location) / s.scale for key, s in stacked.standings.items())
    return (total - stacked.location) / stacked.scale


# 2. Real expression and clinical variables, without a slide


def gse1992() -> Cohort:
    from SurvSet.data import SurvLoader

    frame = SurvLoader().load_dataset("gse1992")["df"]
    clinical = [name for name in frame.columns if name.startswith("fac_")]
    genes = [name for name in frame.columns if name.startswith("num_HS_")]
    return _tabular(
        frame["time"], frame["event"] == 1, frame[genes].to_numpy(float), genes, frame[clinical].astype(str)
    )


def breast_cancer() -> Cohort:
    from sksurv.datasets import load_breast_cancer

    frame, outcome = load_breast_cancer()
    genes = [name for name in frame.columns if name.startswith("X")]
    clinical = frame[["age", "size"]].join(frame[["er", "grade"]].astype(str))
    return _tabular(outcome["t.tdm"] / 30.44, outcome["e.tdm"], frame[genes].to_numpy(float), genes, clinical)


def _tabular(times, events, expression: Floats, genes: Sequence[str], clinical) -> Cohort:
    """Expression is logged already and may be negative: each gene is moved to start at 0; standardising undoes it."""
    ids = tuple(map(str, range(len(clinical))))
    moved = expression - np.nanmin(expression, axis=0)
    patients = tuple(clinical.to_dict("records"))
    return Cohort(
        ids, np.asarray(times, float), np.asarray(events, bool), None, tuple(genes), moved, patients, False, None
    )


def real(cohort: Cohort, seed: int) -> dict:
    """C in each outer fold, of the stack and of its candidates."""
    protocol = Protocol(seed=seed, transform=IDENTITY, optimisation=OPTIMISATION)
    data, members = trained(cohort, protocol)
    stacked = _stacked(members, list(data.families), cohort)
    held = dict(stacked.candidates) | {"stack": stacked.reference}
    scores: dict[str, list[float]] = {}
    for rows in _held_out(cohort, protocol):
        for name, risks in held.items():
            scores.setdefault(name, []).append(concordance(cohort.times[rows], cohort.events[rows], risks[rows]))
    return {"folds": scores, "weights": {str(unit): shares for unit, shares in stacked.shares.items()}}


def baselines(cohort: Cohort, seed: int) -> dict:
    """C in each outer fold, of scikit-survival's models."""
    scores: dict[str, list[float]] = {}
    for rows in _held_out(cohort, Protocol(seed=seed)):
        found = _baselines(cohort, np.setdiff1d(np.arange(len(cohort.ids)), rows), rows, seed)
        for name, risks in found.items():
            scores.setdefault(name, []).append(concordance(cohort.times[rows], cohort.events[rows], risks))
    return {"folds": scores}


def _held_out(cohort: Cohort, protocol: Protocol) -> list[NDArray[np.int64]]:
    """Patients of each outer fold."""
    splits = nested_splits(cohort.times, cohort.events, protocol.folds, protocol.inner, 1, protocol.seed)
    return [split.held_out for split in splits if split.number == 0]


def _baselines(cohort: Cohort, training: NDArray[np.int64], test: NDArray[np.int64], seed: int) -> dict[str, Floats]:
    """Held-out risks of scikit-survival's models, tuned inside the training patients."""
    import warnings

    import pandas as pd
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from sksurv.ensemble import RandomSurvivalForest
    from sksurv.linear_model import CoxPHSurvivalAnalysis
    from sksurv.util import Surv

    clinical = pd.DataFrame(cohort.clinical)
    encode = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore", drop="first"), make_column_selector(dtype_exclude="number")),
        sparse_threshold=0.0,
    )
    variables = encode.fit(clinical.iloc[training]).transform(clinical)
    genes = (
        make_pipeline(SimpleImputer(), StandardScaler()).fit(cohort.expression[training]).transform(cohort.expression)
    )
    both = np.concatenate([genes, variables], axis=1)
    outcome = Surv.from_arrays(cohort.events, cohort.times)
    inner = list(StratifiedKFold(5, shuffle=True, random_state=seed).split(training, cohort.events[training]))
    forest = RandomSurvivalForest(300, min_samples_leaf=10, max_features="sqrt", random_state=seed, low_memory=True)
    ridge = GridSearchCV(CoxPHSurvivalAnalysis(), {"alpha": [0.1, 1.0, 10.0]}, cv=inner, error_score=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an elastic net without a gene left, a fold without a comparable pair
        return {
            "Cox elastic net": _elastic_net(both, outcome, training, test, inner),
            "random survival forest": forest.fit(both[training], outcome[training]).predict(both[test]),
            "clinical Cox": ridge.fit(variables[training], outcome[training]).predict(variables[test]),
        }


def _elastic_net(
    values: Floats,
    outcome: NDArray[np.void],
    training: NDArray[np.int64],
    test: NDArray[np.int64],
    inner: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
) -> Floats:
    """Risks of the test patients by Cox's elastic net, its penalty the one of highest mean C over the inner folds."""
    from sksurv.linear_model import CoxnetSurvivalAnalysis

    penalties = [0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01]

    def fitted(rows: NDArray[np.int64], penalties: Sequence[float]) -> CoxnetSurvivalAnalysis:
        model = CoxnetSurvivalAnalysis(alphas=penalties, l1_ratio=0.5, max_iter=10_000)
        try:
            return model.fit(values[rows], outcome[rows])
        except ArithmeticError:  # the weakest penalty diverges where variables tell all events apart
            return fitted(rows, penalties[:-1])

    scores = np.zeros(len(penalties))
    for some, left in inner:
        model, rows = fitted(training[some], penalties), training[left]
        event, time = (outcome[rows][name] for name in outcome.dtype.names)
        # A penalty that diverges counts as one that tells nobody apart.
        found = {
            penalty: concordance(time, event, model.predict(values[rows], alpha=penalty)) for penalty in model.alphas_
        }
        scores += [found.get(penalty, 0.5) for penalty in penalties]
    best = penalties[int(np.argmax(scores))]
    model = fitted(training, [penalty for penalty in penalties if penalty >= best])
    return model.predict(values[test], alpha=model.alphas_[-1])


# 3. The task's outcomes and the reference's risks


def task(folder: Path) -> None:
    import pandas as pd

    frame = pd.read_csv(folder / "outcomes.csv").dropna(subset=["reference_risk"])
    curve = json.loads((folder / "reference-calibration.json").read_text())
    times, events, risks = frame["time_months"].to_numpy(float), frame["event"].to_numpy(bool), frame["reference_risk"]
    for mode in (RANK, CONTINUOUS):
        table = {
            "times": curve["km_times"],
            "survival": curve["km_probs"],
            "reference_risks": sorted(curve["train_risks"]),
        }
        months = Calibration.from_json({"mode": mode, **table}).months(risks.to_numpy()).months
        shared = np.unique(months, return_counts=True)[1].max() / len(months)
        print(
            f"{mode:<11} C of months {concordance(times, events, -months):.3f}, most patients on one month {shared:.1%}"
        )
    print(f"{'':<11} C of risks  {concordance(times, events, risks):.3f}")


# Tables


def tables(folder: Path) -> None:
    """Print README.md's tables from the results in ``folder``."""
    groups = {name: _results(folder, f"simulated-{name}-*") for name in INTERACTIONS}
    if all(groups.values()):
        _simulated_tables(groups)
    if runs := _results(folder, "sampling-*"):
        print("\n| | 32 tiles a step | all | difference (95% interval) |\n|---|---|---|---|")
        for key, title in SCORES.items():
            some, every = (np.array([run[tiles][key] for run in runs]) for tiles in ("32", "all"))
            print(f"| {title} | {_mean(some)} | {_mean(every)} | {_interval(paired_difference(some - every))} |")
    folds = {}
    for name in ("gse1992", "breast-cancer"):
        ours, others = (_results(folder, f"{part}-{name}-*") for part in ("real", "baselines"))
        if ours and len(ours) == len(others):
            runs = [own["folds"] | other["folds"] for own, other in zip(ours, others, strict=True)]
            folds[name] = {model: np.array([run[model] for run in runs]) for model in runs[0]}
            _real_table(name, folds[name])
    if len(folds) == 2:
        _both_cohorts(list(folds.values()))


SCORES = {"test": "test patients", "held_out": "nested held-out"}


def _results(folder: Path, pattern: str) -> list[dict]:
    """By seed."""
    paths = sorted(folder.glob(f"{pattern}.json"), key=lambda path: int(path.stem.rpartition("-")[2]))
    return [json.loads(path.read_text()) for path in paths]


def _simulated_tables(groups: Mapping[str, Sequence[dict]]) -> None:
    for key, title in SCORES.items():
        print(f"\n| C, {title} | {' | '.join(groups)} |\n|---|{'---|' * len(groups)}")
        if key == "test":
            truths = (f"{np.mean([run['true_hazard'] for run in runs]):.3f}" for runs in groups.values())
            print(f"| true hazard | {' | '.join(truths)} |")
        for family in ("stack", *FAMILIES):
            means = (_mean(_scores(runs, family, key)) for runs in groups.values())
            print(f"| `{family}` | {' | '.join(means)} |")
    everything = [run for group in groups.values() for run in group]
    spread = _scores(everything, "stack", "spread")
    print(f"\nspread of new patients' risks {spread.mean():.2f}, {spread.min():.2f} to {spread.max():.2f}")
    print("\n| interaction | difference | test patients | nested held-out |\n|---|---|---|---|")
    for name, runs in groups.items():
        _differences(name, [runs], _best(runs))
    _differences("all", list(groups.values()), _best(everything))
    for title, rows in (("for choices", slice(0, SETTLED_SEEDS)), ("not for choices", slice(SETTLED_SEEDS, None))):
        _differences(f"all, {title}", [runs[rows] for runs in groups.values()], _best(everything))


def _differences(name: str, groups: Sequence[Sequence[dict]], best: str) -> None:
    """Rows of paired differences. A seed's cohorts share their patients, whatever the interaction: they are one."""
    for first, second in (("stack", best), ("stack", "clinical"), ("bilinear", "concat")):
        found = []
        for key in SCORES:
            by_group = [_scores(runs, first, key) - _scores(runs, second, key) for runs in groups]
            found.append(_interval(paired_difference(np.mean(by_group, axis=0))))
        print(f"| {name} ({len(groups[0])}) | `{first}` − `{second}` | {' | '.join(found)} |")


def _scores(runs: Sequence[dict], family: str, key: str) -> Floats:
    return np.array([run["families"][family][key] for run in runs])


def _best(runs: Sequence[dict]) -> str:
    """The candidate with the highest mean C on test patients: named after the fact, which favours it."""
    return max(CANDIDATES, key=lambda family: float(_scores(runs, family, "test").mean()))


def _real_table(name: str, folds: Mapping[str, Floats]) -> None:
    print(f"\n{name}, {len(folds['stack'])} × {len(folds['stack'][0])} nested folds\n")
    print("| model | C | stack − model (95% interval) | its standard error |\n|---|---|---|---|")
    for model in sorted(folds, key=lambda model: -float(np.nanmean(folds[model]))):
        difference = "| |"
        if model != "stack":
            found = _difference(folds, model)
            difference = f"{_interval(found)} | {_error(found):.3f} |"
        print(f"| {model} | {_mean(np.nanmean(folds[model], axis=1))} | {difference}")
    best = _best_fold(folds)
    for title, rows in (("for choices", slice(0, SETTLED_REPEATS)), ("not for choices", slice(SETTLED_REPEATS, None))):
        parts = [f"{np.nanmean((folds['stack'] - folds[model])[rows]):+.3f}" for model in (best, "clinical")]
        print(f"\nrepeats {title}: stack − {best} {parts[0]}, stack − clinical {parts[1]}")


def _both_cohorts(cohorts: Sequence[Mapping[str, Floats]]) -> None:
    """The mean over cohorts of the stack's differences from the best candidate, and from clinical variables alone."""
    for title, model in (("best candidate of each", None), ("clinical", "clinical")):
        found = [_difference(folds, model or _best_fold(folds)) for folds in cohorts]
        mean, error = np.mean([m for m, _, _ in found]), np.linalg.norm([_error(f) for f in found]) / len(found)
        half = stats.t.ppf(0.975, cohorts[0]["stack"].size - 1) * error
        print(f"\nboth cohorts: stack − {title} {_interval((mean, mean - half, mean + half))}")


def _best_fold(folds: Mapping[str, Floats]) -> str:
    return max(set(folds) & set(CANDIDATES), key=lambda model: float(np.nanmean(folds[model])))


def _difference(folds: Mapping[str, Floats], model: str) -> tuple[float, float, float]:
    difference = (folds["stack"] - folds[model]).ravel()
    return corrected_difference(difference[~np.isnan(difference)], 0.2, 0.8)


def _error(found: tuple[float, float, float]) -> float:
    """The standard error behind a 95% interval of the 50 folds' differences."""
    return (found[2] - found[1]) / 2.0 / float(stats.t.ppf(0.975, 49))


def _interval(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _mean(values: Floats) -> str:
    """Mean and standard error over runs."""
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main()
