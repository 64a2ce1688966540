"""Real cohorts from their tables, by the commands alone: train on half the patients, predict and evaluate the rest.

    python benchmarks/from_tables.py RESULTS [--seeds 3]    train, predict, evaluate; scikit-survival's models beside
    python benchmarks/from_tables.py RESULTS --table        the table of README.md

Five cohorts of SurvSet (extra ``benchmark``), with the units and tables that they come in. RESULTS is a folder: one
JSON file for each cohort and seed, so a run that was stopped goes on. Half the patients, drawn by the seed and
stratified by event, are trained on; all figures are of the others.
"""

import argparse
import contextlib
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sksurv.ensemble import RandomSurvivalForest
from sksurv.linear_model import CoxnetSurvivalAnalysis, CoxPHSurvivalAnalysis
from sksurv.util import Surv

from survfuse.cli.main import main as survfuse
from survfuse.runtime.files import read_object, write_json
from survfuse.survival.metrics import concordance


@dataclass(frozen=True)
class Source:
    """A data set of SurvSet."""

    unit: str  # of its times
    genes: str = ""  # how its columns of expression begin; empty: it has none
    options: tuple[str, ...] = ()


NET = (0.5, 0.3, 0.2, 0.1, 0.05, 0.03)  # penalties
SOURCES = {
    "GBSG2": Source("days"),
    "whas500": Source("days"),
    "veteran": Source("days"),
    "DLBCL": Source("years", "num_", ("--transform", "identity", "--duplicates", "mean")),
    "gse1992": Source("months", "num_HS_", ("--transform", "identity", "--duplicates", "mean")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print_table(options.folder)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, source in SOURCES.items():
        for seed in range(options.seeds):
            path = options.folder / f"{name}-{seed}.json"
            if not path.exists():
                write_json(path, measured(name, source, seed))


def measured(name: str, source: Source, seed: int) -> dict[str, object]:
    """C of the other half's patients: survfuse's by ``evaluate``, and scikit-survival's models'."""
    from SurvSet.data import SurvLoader

    frame = SurvLoader().load_dataset(name)["df"]
    frame["pid"] = "P" + frame["pid"].astype(str)
    training, test = train_test_split(np.arange(len(frame)), test_size=0.5, random_state=seed, stratify=frame["event"])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        words = tables(frame, source, training, root / "training"), tables(frame, source, test, root / "test")
        outcomes = [root / half / "outcomes.csv" for half in ("training", "test")]
        bundle, predictions = root / "bundle", root / "predictions.csv"
        unit = ["--time-unit", source.unit]
        run("train", *words[0], "--outcomes", outcomes[0], *unit, *source.options, "--out", bundle, "--seed", seed)
        run("predict", *words[1], *source.options[2:], "--model", bundle, "--out", predictions)
        run("evaluate", predictions, outcomes[1], *unit, "--json", root / "figures.json")
        figures = read_object(root / "figures.json", RuntimeError)
    return {
        "patients": len(frame), "events": int(frame["event"].sum()),
        "survfuse": figures["harrell_concordance"], **baselines(frame, source, training, test, seed),
    }  # fmt: skip


def tables(frame: pd.DataFrame, source: Source, rows: np.ndarray, folder: Path) -> list[object]:
    """Write some patients' tables; the words that name them to a command."""
    folder.mkdir()
    own = frame.iloc[rows]
    expression = genes_of(own, source)
    clinical = own.drop(columns=["event", "time", *expression.columns])
    own[["pid", "time", "event"]].set_axis(["patient", "time", "event"], axis=1).to_csv(
        folder / "outcomes.csv", index=False
    )
    words: list[object] = []
    if clinical.shape[1] > 1:
        clinical.rename(columns={"pid": "patient"}).to_csv(folder / "clinical.csv", index=False, sep=";", decimal=",")
        words += ["--clinical", folder / "clinical.csv"]
    if expression.shape[1]:
        across = expression.set_index(own["pid"]).T.rename_axis("gene")
        across.index = [gene.removeprefix("num_") for gene in across.index]
        across.to_csv(folder / "expression.tsv.gz", sep="\t")
        words += ["--expression", folder / "expression.tsv.gz"]
    return words


def genes_of(frame: pd.DataFrame, source: Source) -> pd.DataFrame:
    return frame[[name for name in frame.columns if source.genes and name.startswith(source.genes)]]


def run(*words: object) -> None:
    if code := survfuse(list(map(str, words))):
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {code}")


def baselines(
    frame: pd.DataFrame, source: Source, training: np.ndarray, test: np.ndarray, seed: int
) -> dict[str, float]:
    """C on the test patients of scikit-survival's models, tuned by cross-validation of the training patients."""
    inputs = frame.drop(columns=["pid", "event", "time"])
    factors = [name for name in inputs.columns if name.startswith("fac_")]
    inputs[factors] = inputs[factors].astype(str)
    encode = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore", drop="first"), make_column_selector(dtype_exclude="number")),
        sparse_threshold=0.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a category of the test patients alone
        values = encode.fit(inputs.iloc[training]).transform(inputs)
    outcome = Surv.from_arrays(frame["event"] == 1, frame["time"])
    inner = list(StratifiedKFold(5, shuffle=True, random_state=seed).split(training, frame["event"].iloc[training]))
    # A ridge has to invert a matrix as wide as the variables are many: of genes, an elastic net chooses.
    cox = (
        ElasticNet()
        if source.genes
        else GridSearchCV(CoxPHSurvivalAnalysis(), {"alpha": [1.0, 10.0, 100.0]}, cv=inner, error_score=0.5)
    )
    forest = RandomSurvivalForest(300, min_samples_leaf=10, max_features="sqrt", random_state=seed, low_memory=True)
    found = {}
    for model, fitted in {"Cox": cox, "random survival forest": forest}.items():
        risks = fitted.fit(values[training], outcome[training]).predict(values[test])
        found[model] = concordance(frame["time"].iloc[test], frame["event"].iloc[test] == 1, risks)
    return found


class ElasticNet:
    """Cox's elastic net with the penalty of the highest C in cross-validation, of those that converge."""

    def fit(self, values: np.ndarray, outcome: np.ndarray) -> "ElasticNet":
        """Choose by the mean C of three folds; a penalty that diverges counts as one that tells nobody apart."""
        scores = {
            penalty: np.mean([self._score(values, outcome, penalty, fold) for fold in range(3)]) for penalty in NET
        }
        for penalty in sorted(scores, key=lambda each: -scores[each]):
            with contextlib.suppress(ArithmeticError):
                self.model = _net(penalty).fit(values, outcome)
                return self
        raise RuntimeError("no penalty converges")

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Risks."""
        return self.model.predict(values)

    def _score(self, values: np.ndarray, outcome: np.ndarray, penalty: float, fold: int) -> float:
        left = np.arange(len(values)) % 3 == fold
        try:
            risks = _net(penalty).fit(values[~left], outcome[~left]).predict(values[left])
        except ArithmeticError:
            return 0.5
        event, time = (outcome[left][name] for name in outcome.dtype.names)
        return concordance(time, event, risks)


def _net(penalty: float) -> CoxnetSurvivalAnalysis:
    return CoxnetSurvivalAnalysis(alphas=[penalty], l1_ratio=0.5, max_iter=10_000)


def print_table(folder: Path) -> None:
    """Mean C over the seeds, and survfuse's smallest and largest."""
    print("| cohort | patients | events | survfuse | Cox: ridge, or elastic net of genes | random survival forest |")
    print("|---|---|---|---|---|---|")
    for name in SOURCES:
        results: list[Mapping[str, object]] = [
            read_object(p, RuntimeError) for p in sorted(folder.glob(f"{name}-*.json"))
        ]
        if not results:
            continue
        own = [entry["survfuse"]["value"] for entry in results]
        others = [np.mean([entry[model] for entry in results]) for model in ("Cox", "random survival forest")]
        span = f"{np.mean(own):.3f} ({min(own):.3f} to {max(own):.3f})"
        size = f"{results[0]['patients']} | {results[0]['events']}"
        print(f"| {name} | {size} | {span} | {others[0]:.3f} | {others[1]:.3f} |")


if __name__ == "__main__":
    main()
