"""The challenge's evaluation container: jobs are scored by its own rules, and `survfuse evaluate` says the same.

The scorer here follows the platform's evaluation template and the challenge's metric, and shares nothing with
survfuse but the socket's file name.
"""

import csv
import json
import math
import shutil
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PLACES
from make_cases import write_sockets, write_variables
from sksurv.metrics import concordance_index_censored

import survfuse.container.job as job
from survfuse import api
from survfuse.cli.main import main as survfuse

PATIENTS = 12
SLIDE_SLUG = "bladder-cancer-tissue-biopsy-whole-slide-image"
OUTPUT = {
    "slug": "likelihood-of-bladder-cancer-recurrence",
    "kind": "Anything",
    "super_kind": "File",
    "relative_path": "likelihood-of-bladder-cancer-recurrence.json",
}


@pytest.fixture(scope="module")
def patients(cohort: Path) -> list[str]:
    """Some of the simulated patients, events and censored ones among them."""
    return sorted(path.name for path in (cohort / "data").iterdir())[:PATIENTS]


@pytest.fixture(scope="module")
def truth(cohort: Path, patients: list[str]) -> dict[str, dict[str, float]]:
    """The challenge's ground truth: outcomes by the slide's file name without its extension."""
    outcomes = {f"{name}_HE": json.loads((cohort / "data" / name / f"{name}_CD.json").read_text()) for name in patients}
    events = sum(outcome["progression"] for outcome in outcomes.values())
    assert 4 <= events <= PATIENTS - 4
    return outcomes


@pytest.fixture(scope="module")
def submission(cohort: Path, bundle: Path, patients: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/input of the evaluation container, after a job for every patient."""
    root, cases = tmp_path_factory.mktemp("evaluation"), tmp_path_factory.mktemp("cases")
    jobs = []
    for name in patients:
        case = cases / name
        features = case / PLACES["slide"] / f"{name}_HE.pt"
        write_variables(cohort / "data" / name, name, case)
        features.parent.mkdir(parents=True)
        shutil.copy(cohort / "features" / "features" / features.name, features)
        write_sockets(case, {"slide": features})
        pk = str(uuid.uuid5(uuid.NAMESPACE_OID, name))
        output = root / pk / "output"
        assert job.main(["--input", str(case), "--output", str(output), "--model", str(bundle)]) == 0
        jobs.append(job_entry(pk, json.loads((case / "inputs.json").read_text())))
    # In no specific order, says the platform.
    (root / "predictions.json").write_text(json.dumps(sorted(jobs, key=lambda entry: entry["pk"])))
    return root


def job_entry(pk: str, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    """One job as predictions.json lists it."""
    files = [
        {**socket, "file": f"https://example.org/media/{socket['interface']['relative_path']}"} for socket in inputs
    ]
    given = [socket if socket["image"] else file for socket, file in zip(inputs, files, strict=True)]
    link = f"https://example.org/media/{pk}/{OUTPUT['relative_path']}"
    outputs = [{"file": link, "image": None, "value": None, "interface": OUTPUT}]
    return {"pk": pk, "inputs": given, "outputs": outputs, "status": "Succeeded"}


def submitted(root: Path) -> dict[str, float]:
    """Slide's file name without its extension → what its job wrote, as the evaluation template reads it."""
    found = {}
    for entry in json.loads((root / "predictions.json").read_text()):
        (image,) = [value["image"] for value in entry["inputs"] if value["interface"]["slug"] == SLIDE_SLUG]
        (place,) = [value["interface"] for value in entry["outputs"] if value["interface"]["slug"] == OUTPUT["slug"]]
        written = root / entry["pk"] / "output" / place["relative_path"]
        found[image["name"].rsplit(".", 1)[0]] = json.loads(written.read_text())
    return found


def challenge_score(predictions: Mapping[str, float], truth: Mapping[str, Mapping[str, float]]) -> float:
    """The challenge's figure: Harrell's concordance of the negated predictions."""
    events = np.array([bool(truth[name]["progression"]) for name in predictions])
    times = np.array([float(truth[name]["Time_to_prog_or_FUend"]) for name in predictions])
    return concordance_index_censored(events, times, -np.array(list(predictions.values())))[0]


def pairwise_score(predictions: Mapping[str, float], truth: Mapping[str, Mapping[str, float]]) -> tuple[float, int]:
    """Share of usable pairs in which the earlier event was predicted earlier, ties counting half; and the ties."""
    usable = right = ties = 0
    for early, predicted in predictions.items():
        for late, other in predictions.items():
            first, second = truth[early], truth[late]
            later = second["Time_to_prog_or_FUend"] > first["Time_to_prog_or_FUend"]
            outlives = second["Time_to_prog_or_FUend"] == first["Time_to_prog_or_FUend"] and not second["progression"]
            if first["progression"] and (later or outlives):
                usable, right, ties = usable + 1, right + (predicted < other), ties + (predicted == other)
    return (right + ties / 2) / usable, ties


def write_tables(root: Path, months: Mapping[str, float], truth: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The same predictions and outcomes as `survfuse evaluate` reads them; the paths of both."""
    predictions, outcomes = root / "predictions.csv", root / "outcomes.csv"
    with predictions.open("w", newline="") as file:
        # Risks in another order than the months: the evaluation sees months alone.
        risks = sorted(months.values(), key=lambda value: math.sin(value))
        rows = [(name, risk, value) for (name, value), risk in zip(months.items(), risks, strict=True)]
        csv.writer(file).writerows([("case_id", "risk", "months"), *rows])
    with outcomes.open("w", newline="") as file:
        rows = [(name, patient["Time_to_prog_or_FUend"], patient["progression"]) for name, patient in truth.items()]
        csv.writer(file).writerows([("case_id", "Time_to_prog_or_FUend", "progression"), *rows])
    return [str(predictions), str(outcomes)]


def exactly(months: float) -> float:
    return months


def whole_years(months: float) -> float:
    return 12.0 * round(months / 12.0)


@pytest.mark.parametrize(("coarse", "tied"), [(exactly, False), (whole_years, True)])
def test_the_evaluation_container_and_survfuse_evaluate_agree_to_the_last_bit(
    submission, truth, tmp_path, capsys, monkeypatch, coarse: Callable[[float], float], tied: bool
):
    monkeypatch.setattr(api, "evaluate", partial(api.evaluate, draws=20))  # intervals are tested elsewhere
    months = {name: coarse(value) for name, value in submitted(submission).items()}
    score = challenge_score(months, truth)
    pairwise, ties = pairwise_score(months, truth)
    assert (ties > 0) == tied
    assert survfuse(["evaluate", *write_tables(tmp_path, months, truth), "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["challenge_concordance"]["value"] == score == pytest.approx(pairwise, abs=1e-12)
    assert (figures["patients"], figures["events"]) == (PATIENTS, sum(row["progression"] for row in truth.values()))
    assert f"challenge's concordance (months)  {score:.3f} " in capsys.readouterr().out


def test_every_job_is_scored_against_its_own_patient(submission, truth, cohort, bundle, tmp_path):
    """The months of a slide's name are those that `survfuse predict` gives the patient of that name."""
    assert survfuse(["predict", str(cohort), "--model", str(bundle), "--out", str(tmp_path / "all.csv")]) == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        predicted = {f"{row['case_id']}_HE": float(row["months"]) for row in csv.DictReader(file)}
    months = submitted(submission)
    assert set(months) == set(truth)
    assert months == pytest.approx({name: predicted[name] for name in truth}, rel=1e-5)


def test_a_risk_in_place_of_a_time_scores_what_is_left_of_one(submission, truth):
    months = submitted(submission)
    risks = {name: -value for name, value in months.items()}
    score = challenge_score(months, truth)
    assert score != 0.5
    assert challenge_score(risks, truth) == pytest.approx(1.0 - score, abs=1e-12)


def test_perfect_times_score_one_and_their_order_reversed_zero(truth):
    times = {name: float(row["Time_to_prog_or_FUend"]) + (not row["progression"]) / 2 for name, row in truth.items()}
    assert challenge_score(times, truth) == 1.0
    assert challenge_score({name: -time for name, time in times.items()}, truth) == 0.0


def test_a_job_that_fails_leaves_the_evaluation_without_a_file_to_read(submission, cohort, bundle, patients, tmp_path):
    """A case that cannot be read ends with an error and removes what an earlier run left: nothing made up is scored."""
    root = Path(shutil.copytree(submission, tmp_path / "input"))
    entry = json.loads((root / "predictions.json").read_text())[0]
    case, output = tmp_path / "case", root / entry["pk"] / "output"
    write_variables(cohort / "data" / patients[0], patients[0], case)
    (case / PLACES["rna"]).write_text("[]")
    assert job.main(["--input", str(case), "--output", str(output), "--model", str(bundle)]) == 2
    with pytest.raises(FileNotFoundError):
        submitted(root)
