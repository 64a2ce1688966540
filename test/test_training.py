"""From a cohort to a bundle: what held-out patients may not touch, resuming, and what the bundle then says."""

import csv
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, TINY, edit_json, on_threads
from lifelines import CoxPHFitter
from sksurv.metrics import concordance_index_censored

from survfuse import api
from survfuse.bundle.load import Bundle, load, load_members
from survfuse.cli.main import main as survfuse
from survfuse.cohort.read import Cohort, read_cohort
from survfuse.networks.build import build
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.slide.settings import SlideSettings
from survfuse.tasks.chimera3 import TASK
from survfuse.tasks.task import Task
from survfuse.training.fit_unit import fit_unit
from survfuse.training.fit_work import FitWork
from survfuse.training.folds import nested_splits
from survfuse.training.member import TrainedMember
from survfuse.training.protocol import Optimisation, Protocol
from survfuse.training.state import TrainingState, fingerprint
from survfuse.training.train import train
from survfuse.training.training_data import training_data
from survfuse.training.work_units import WorkUnit, work_units
from survfuse.workers.executor import LocalExecutor
from survfuse.workers.work import Ended, attempted

AUTO = [*TINY, "--fusion=auto"]
CPU = torch.device("cpu")
SIZES = Sizes(bag=8, attention=4, rna=(8, 6), rank=4, pairs=(4, 3, 2), clusters=3)
FULL = "slide+rna+clinical"


@pytest.fixture(scope="module")
def auto(cohort, tmp_path_factory) -> Path:
    """The stack of every candidate, with its report beside it, trained on two threads."""
    root = tmp_path_factory.mktemp("auto") / "bundle"
    with on_threads(2):
        assert survfuse(["train", str(cohort), "--out", str(root), *AUTO]) == 0
    return root


def same_bytes(first: Path, second: Path) -> None:
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def member_risks(bundle: Bundle, patients: Cohort, combination: str = FULL) -> np.ndarray:
    """Each member's own risk of each patient [M, n] by the modalities of ``combination``, from the files alone."""
    genes = {gene: place for place, gene in enumerate(patients.genes)}
    chosen = [genes[gene] for gene in bundle.expression.genes]
    rna = torch.from_numpy(bundle.expression.transformed(patients.expression[:, chosen]))
    clinical = torch.from_numpy(np.stack([bundle.vocabulary.encode(values).values for values in patients.clinical]))
    found = []
    for member in load_members(bundle):
        network = build(member.family, member.sizes).eval()
        network.load_state_dict(member.state)
        risks = []
        for row, bag in enumerate(patients.bags):
            given = {"slide": bag.rows(None)[None], "rna": rna[[row]], "clinical": clinical[[row]]}
            with torch.no_grad():
                risks.append(
                    network(*(x if name in combination.split("+") else None for name, x in given.items())).risk
                )
        found.append(torch.cat(risks).numpy())
    return np.array(found)


@pytest.fixture(scope="module")
def twice(cohort, tmp_path_factory) -> Path:
    """Two repeats of the partition."""
    root = tmp_path_factory.mktemp("twice") / "bundle"
    assert survfuse(["train", str(cohort), "--out", str(root), *TINY, "--repeats=2"]) == 0
    return root


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("combination", [FULL, "slide+clinical", "rna"])
def test_the_written_bundle_is_what_training_measured(cohort, bundle, twice, tmp_path, repeats, combination):
    """Folds made again, each member's risks for its inner and its held-out patients, by all modalities and by fewer."""
    patients, frozen = read_cohort(cohort, tmp_path), load(bundle if repeats == 1 else twice)
    splits = nested_splits(patients.times, patients.events, 2, 2, repeats, 0)
    risks, reference = member_risks(frozen, patients, combination), np.zeros(len(patients.ids))
    by_split = dict(zip((split.name for split in splits), range(len(splits)), strict=True))
    assert list(by_split) == sorted(by_split)  # as the bundle has them
    for unit in {(split.repeat, split.fold) for split in splits}:
        rows = [place for place, split in enumerate(splits) if (split.repeat, split.fold) == unit]
        standings = [frozen.manifest.members[row].standings[combination] for row in rows]
        centred = [risks[row][splits[row].inner] - risks[row][splits[row].inner].mean() for row in rows]
        for row, standing in zip(rows, standings, strict=True):
            assert standing.location == pytest.approx(risks[row][splits[row].inner].mean(), abs=1e-4)
            assert standing.scale == pytest.approx(np.concatenate(centred).std(), rel=1e-3)
            assert standing.weight == pytest.approx(1 / len(splits))
            held_out = splits[row].held_out
            reference[held_out] += (risks[row][held_out] - standing.location) / standing.scale / 2 / repeats
    standard = (reference - reference.mean()) / reference.std()
    scale = frozen.manifest.combinations[combination]
    assert scale.location == pytest.approx(reference.mean(), abs=1e-3)
    found = concordance_index_censored(patients.events, patients.times, reference)[0]
    assert frozen.manifest.provenance["combinations"][combination] == pytest.approx(found, abs=2e-3)
    if combination == FULL:
        assert frozen.calibration.reference_risks == pytest.approx(np.sort(standard), abs=5e-3)
        held = frozen.manifest.provenance["held_out"]
        assert held["harrell_concordance"]["value"] == pytest.approx(found, abs=2e-3)
    # The combination's own curve, as much steeper as reference risks spread further than a new patient's do.
    table = pd.DataFrame({"risk": standard, "time": patients.times, "event": patients.events})
    slope = max(0.0, float(CoxPHFitter().fit(table, "time", "event").params_["risk"]))
    curve = frozen.curves[combination]
    assert curve.coefficient == pytest.approx(slope * reference.std() / scale.scale, rel=2e-2, abs=1e-3)
    relative = np.exp(curve.coefficient * standard)
    first = patients.times == patients.times[patients.events].min()
    assert curve.hazard[curve.times == patients.times[patients.events].min()] == pytest.approx(
        (patients.events & first).sum() / relative[patients.times >= patients.times[first].min()].sum(), rel=2e-2
    )


def test_a_trained_bundle_is_the_same_for_the_same_seed(cohort, bundle, tmp_path):
    assert survfuse(["train", str(cohort), "--out", str(tmp_path / "again"), *TINY]) == 0
    same_bytes(bundle, tmp_path / "again")


def test_a_run_that_was_interrupted_goes_on_and_ends_with_the_same_bundle(
    cohort, auto, tmp_path, monkeypatch, capsys, two_threads
):
    """Ended at every fifth member written, and started again each time; a finished family is not trained anew."""
    written = []
    write = TrainingState._write_member

    def interrupted(self, member):
        write(self, member)
        written.append((member.family.name, member.split.name))
        if len(written) % 5 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "_write_member", interrupted)
    command, ends = ["train", str(cohort), "--out", str(tmp_path / "bundle"), *AUTO], []
    while not ends or ends[-1] == 4:
        assert len(ends) < 40
        ends.append(survfuse(command))
    assert ends[-1] == 0 and len(ends) > 4
    assert "members of 28 already trained" in capsys.readouterr().out.replace("member of 28", "members of 28")
    same_bytes(auto, tmp_path / "bundle")
    assert not (tmp_path / "bundle.training/members").exists() or not any(
        (tmp_path / "bundle.training/members").iterdir()
    )


# Imports once, and trains in a child that is killed when it has written a certain file; then in another.
KILLED = """
import os, signal, sys, time
from pathlib import Path

import survfuse.training.train, torch._dynamo, torch.utils.tensorboard
from survfuse.cli.main import main

work, *command = sys.argv[1:]
for written in ("features/*", "members/*/*.safetensors", "report.html"):
    child = os.fork()
    if not child:
        os._exit(main(command))
    ended = 0
    while not ended and not any(Path(work).glob(written)):
        time.sleep(0.001)
        ended, _ = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("\\nkilled" if os.WIFSIGNALED(status) else "\\nended", flush=True)
"""


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bundle(cohort, bundle, tmp_path):
    """Killed outright while it reads the cohort, while it keeps members and, if that is in time, while it freezes."""
    work, command = tmp_path / "bundle.training", ["train", str(cohort), "--out", str(tmp_path / "bundle"), *TINY]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, work, *command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    verdicts = [line for line in ended.stdout.splitlines() if line in ("killed", "ended")]
    assert ended.returncode == 0 and verdicts[:2] == ["killed", "killed"], ended.stderr
    if not (tmp_path / "bundle/manifest.json").exists():
        assert survfuse(command) == 0
    same_bytes(bundle, tmp_path / "bundle")


@pytest.mark.parametrize("moved", [0, 1, 3])
def test_a_bundle_left_half_moved_is_taken_up_again(cohort, bundle, tmp_path, monkeypatch, moved):
    """Killed while it moves a bundle to a folder that holds a README, which it cannot do in one step."""
    command = ["train", str(cohort), "--out", str(tmp_path / "bundle"), *TINY]
    replace, done = Path.replace, []
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/README.md").write_text("models lie here")

    def torn(self, target):
        if self.parent.name == ".bundle.partial":
            if len(done) == moved:
                raise KeyboardInterrupt
            done.append(target)
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", torn)
        patch.setattr("survfuse.bundle.place._remove", lambda _: None)  # one killed outright clears nothing away
        assert survfuse(command) == 4
    assert len([path for path in (tmp_path / "bundle").iterdir() if path.name != "README.md"]) == moved
    assert survfuse(command) == 0
    (tmp_path / "bundle/README.md").unlink()
    same_bytes(bundle, tmp_path / "bundle")


def test_a_run_killed_after_its_bundle_was_placed_is_finished(cohort, bundle, tmp_path, monkeypatch, capsys):
    """Started again it clears its members away and leaves the bundle; another run's bundle is not taken for its own."""
    out, kept = tmp_path / "bundle", []
    command = ["train", str(cohort), "--out", str(out), *TINY]
    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "clear", lambda state: kept.append(state.folder))
        assert survfuse(command) == 0
    assert kept[-1].is_dir()
    capsys.readouterr()
    assert survfuse([*command, "--calibration=rank"]) == 2  # the same members, another bundle
    assert "not empty" in capsys.readouterr().err
    assert survfuse(command) == 0
    assert "is already complete" in capsys.readouterr().out and not kept[-1].exists()
    same_bytes(bundle, out)
    assert survfuse(command) == 2


def test_state_of_another_cohort_or_protocol_is_not_taken_up(cohort, tmp_path):
    def state(root: Path, **changes) -> str:
        return fingerprint(
            training_data(read_cohort(root, tmp_path), Protocol(folds=2, inner=2, **changes), SIZES), CPU
        )

    other = Path(shutil.copytree(cohort, tmp_path / "other"))
    name = sorted(path.name for path in (other / "data").iterdir())[3]
    found = [state(cohort), state(cohort, fusion="bilinear"), state(cohort, seed=1), state(cohort, genes=7)]
    found.append(state(cohort, optimisation=Optimisation(epochs=7)))
    edit_json(other / "data" / name / f"{name}_CD.json", age=41)
    found.append(state(other))
    bag = other / "features/features" / f"{name}_HE.pt"
    torch.save(torch.load(bag, weights_only=True) + 1.0, bag)
    found.append(state(other))
    assert found[0] == found[1]  # a family's members are the same in a stack and alone
    assert len(set(found)) == len(found) - 1


def test_members_of_another_state_format_or_task_are_not_taken_up(cohort, tmp_path):
    """They lie in another folder, so a run that meets them trains its own."""
    data = training_data(read_cohort(cohort, tmp_path), Protocol(folds=2, inner=2, fusion="clinical"), SIZES)
    other_task = replace(data, cohort=replace(data.cohort, task=replace(TASK, name="another")))
    folders = [TrainingState(tmp_path, of, CPU).folder for of in (data, other_task)]
    assert folders[0] != folders[1]
    assert folders[0].name != fingerprint(data, CPU)  # the name that such a folder had when its files held other names


class Elsewhere(LocalExecutor):
    """As a cluster would: work, units and members as bytes, data opened by each worker, the last unit ends first."""

    def results(self, work: FitWork, items: Sequence[WorkUnit]) -> Iterator[Ended[WorkUnit, list[TrainedMember]]]:
        for unit in reversed(items):
            sent = pickle.dumps(unit)
            assert len(sent) < 1000
            opened = pickle.loads(
                pickle.dumps(replace(work, data=replace(work.data)))
            )  # without what is computed already
            attempt = attempted(opened.start(self.device), pickle.loads(sent), 0)
            yield Ended(unit, pickle.loads(pickle.dumps(attempt)))


def test_members_of_a_unit_follow_from_its_arguments_alone(cohort, tmp_path):
    """Fitted twice, in another order and from data opened anew: the same numbers to the last bit."""
    protocol = Protocol(folds=2, inner=2, optimisation=Optimisation(epochs=4))
    read = read_cohort(cohort, tmp_path)
    first, again = (training_data(read, protocol, SIZES) for _ in range(2))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one = {unit: fit_unit(first, unit, CPU) for unit in work_units(first)}
    other = {unit: fit_unit(again, pickle.loads(pickle.dumps(unit)), CPU) for unit in reversed(work_units(again))}
    assert torch.equal(torch.get_rng_state(), before) and not torch.are_deterministic_algorithms_enabled()
    assert len(one) == 5 * 2 + 2
    for unit, members in one.items():
        assert [member.split.name for member in members] == list(unit.splits)
        for member, same in zip(members, other[unit], strict=True):
            assert member.fitted.inner == same.fitted.inner and member.risks.keys() == same.risks.keys()
            assert all(torch.equal(value, same.fitted.state[name]) for name, value in member.fitted.state.items())
            assert all(np.array_equal(x, same.risks[key], equal_nan=True) for key, x in member.risks.items())


def test_units_that_threads_fit_are_those_of_one_after_the_other(cohort, tmp_path):
    protocol = Protocol(folds=2, inner=2, fusion="concat", optimisation=Optimisation(epochs=3))
    data = training_data(read_cohort(cohort, tmp_path), protocol, SIZES)
    wanted = work_units(data)
    expected = [fit_unit(data, unit, CPU) for unit in wanted]
    with ThreadPoolExecutor(2) as pool:
        fitted = list(pool.map(lambda unit: fit_unit(data, unit, CPU), wanted))
    for members, same in zip(fitted, expected, strict=True):
        for member, other in zip(members, same, strict=True):
            assert all(torch.equal(value, other.fitted.state[name]) for name, value in member.fitted.state.items())


LACK = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


@pytest.mark.parametrize(
    ("fusion", "step", "said"),
    [
        ("bilinear", "fit_networks", "4 members of bilinear were being fitted on the CPU: --tiles below 32 needs less"),
        ("rna+clinical", "fit_networks", "4 members of rna+clinical were being fitted on the CPU"),
        ("cox-slide", "fit_cox", "2 members of cox-slide were being fitted on the CPU"),
    ],
)
def test_memory_that_runs_out_says_which_option_needs_less(cohort, tmp_path, monkeypatch, fusion, step, said):
    def refused(*_):
        raise LACK

    monkeypatch.setattr(f"survfuse.training.fit_unit.{step}", refused)
    data = training_data(read_cohort(cohort, tmp_path), Protocol(folds=2, inner=2, fusion=fusion), SIZES)
    with pytest.raises(EnvironmentFailure) as raised:
        fit_unit(data, work_units(data)[0], CPU)
    assert str(raised.value) == f"memory ran out: {LACK}; {said}"


def test_other_failures_of_fitting_are_passed_on_as_they_are(cohort, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")

    monkeypatch.setattr("survfuse.training.fit_unit.fit_networks", fails)
    data = training_data(read_cohort(cohort, tmp_path), Protocol(folds=2, inner=2, fusion="concat"), SIZES)
    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        fit_unit(data, work_units(data)[0], CPU)


def test_the_order_in_which_units_end_does_not_change_the_bundle(cohort, auto, tmp_path, monkeypatch, two_threads):
    monkeypatch.setattr("survfuse.workers.executor.LocalExecutor", Elsewhere)
    assert survfuse(["train", str(cohort), "--out", str(tmp_path / "bundle"), *AUTO]) == 0
    same_bytes(auto, tmp_path / "bundle")


def test_held_out_patients_do_not_touch_their_fold(cohort, tmp_path):
    """With another outcome, bag, expression and age for one patient, the members of the fold that held them out keep
    their risks of all others, and the genes that were selected for them."""
    changed = Path(shutil.copytree(cohort, tmp_path / "changed"))
    patients = read_cohort(cohort, tmp_path)
    victim = next(name for name, event in zip(patients.ids, patients.events, strict=True) if event)
    edit_json(changed / "data" / victim / f"{victim}_CD.json", Time_to_prog_or_FUend=1, age=33)
    expression = json.loads((changed / "data" / victim / f"{victim}_RNA.json").read_text())
    edit_json(changed / "data" / victim / f"{victim}_RNA.json", **{gene: 2.0 * x for gene, x in expression.items()})
    bag = changed / "features/features" / f"{victim}_HE.pt"
    torch.save(torch.load(bag, weights_only=True) + 5.0, bag)
    # The same partition for both, made before anything was changed.
    splits = nested_splits(patients.times, patients.events, 2, 2, 1, 0)
    members = []
    for root in (cohort, changed):
        read = read_cohort(root, tmp_path / f"{root.name}-cache")
        protocol = Protocol(folds=2, inner=2, genes=10, optimisation=Optimisation(epochs=6))
        data = replace(training_data(read, protocol, SIZES), splits=tuple(splits))
        members.append((data, [member for unit in work_units(data) for member in fit_unit(data, unit, CPU)]))
    place = patients.ids.index(victim)
    differing = set()
    (first, one), (second, other) = members
    for before, after in zip(one, other, strict=True):
        others = np.setdiff1d(before.split.held_out, [place])
        # But for rounding: the cohort's own scale, which each fold's takes back out, does change. A bias that shifts
        # all risks has no gradient but rounding.
        risks = [member.risks[member.family.modalities][others] for member in (before, after)]
        same = np.allclose(risks[0] - risks[0].mean(), risks[1] - risks[1].mean(), rtol=1e-3, atol=1e-4)
        if place not in before.split.fitted:  # nor does a patient who only stops a member touch its input maps
            inputs = [data.inputs(before.split) for data in (first, second)]
            unchanged = np.setdiff1d(np.arange(len(patients.ids)), [place])
            assert list(inputs[0]) == list(inputs[1]) == ["rna", "clinical"]
            for own, others_own in zip(*(of.values() for of in inputs), strict=True):
                assert np.allclose(own[unchanged], others_own[unchanged], rtol=1e-3, atol=1e-3)
        if place in before.split.held_out:
            assert same, before.family.name
            axes = [data.maps(before.split).expression.factor != 0.0 for data in (first, second)]
            assert np.array_equal(*axes) and axes[0].sum() <= 10  # the same genes are selected
        elif not same:
            differing.add(before.family.name)
    assert differing == {
        member.family.name for member in members[0][1]
    }  # every family was fitted to the patient elsewhere


def test_the_frozen_ensemble_holds_only_families_with_weight(auto):
    bundle = load(auto)
    facts = bundle.manifest.provenance
    families = {member.family for member in bundle.manifest.members}
    assert families <= set(facts["candidates"]) == {
        "clinical", "cox-rna", "cox-slide", "cox-rna+clinical", "cox", "rna+clinical", "bilinear",
    }  # fmt: skip
    for name in bundle.manifest.combinations:
        weights = [m.standings[name].weight for m in bundle.manifest.members if name in m.standings]
        assert sum(weights) == pytest.approx(1.0) and min(weights) > 0.0
    weighted = {m.family for m in bundle.manifest.members if FULL in m.standings}
    assert weighted == set(facts["family_weights"])
    assert sum(facts["family_weights"].values()) == pytest.approx(1.0, abs=1e-3)
    assert all(member.standings for member in bundle.manifest.members)


def test_the_bundle_says_what_it_is_and_names_no_patient(auto, cohort, tmp_path):
    patients = read_cohort(cohort, tmp_path)
    card = (auto / "model-card.md").read_text()
    for part in ("60 simulated patients", "Intended use", "Limits", "Held-out figures", "Harrell's concordance", FULL):
        assert part in card
    for path in auto.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(name.encode() in data for name in patients.ids), path.name
    risks = json.loads((auto / "calibration.json").read_text())["reference_risks"]
    assert risks == sorted(risks) and len(risks) == 60


def test_training_leaves_a_report_and_scalars(auto):
    work = auto.with_name("bundle.training")
    report = json.loads((work / "report.json").read_text())
    manifest = json.loads((auto / "manifest.json").read_text())
    assert report["heldout"]["harrell_concordance"] == manifest["provenance"]["held_out"]["harrell_concordance"]
    assert set(report["heldout"]["candidates"]) == set(manifest["provenance"]["candidates"])
    page = (work / "report.html").read_text()
    assert "<svg" in page and manifest["notice"] in page and "simulated patients" in manifest["notice"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = EventAccumulator(str(work / "tensorboard" / "bilinear-0-0-0"))
    run.Reload()
    curve = next(c for c in report["loss_curves"] if (c["family"], c["fold"], c["number"]) == ("bilinear", 0, 0))
    assert [event.value for event in run.Scalars("loss/inner")] == pytest.approx(curve["inner"], rel=1e-5)


WORDS = ("training_patient", "group")  # columns that are no numbers


def read_table(path: Path) -> dict[str, dict[str, float]]:
    with path.open(newline="") as file:
        rows = {row.pop("case_id"): row for row in csv.DictReader(file)}
    # An empty cell is a term that the case does not have.
    return {
        name: {column: float(text) for column, text in row.items() if text and column not in WORDS}
        for name, row in rows.items()
    }


@pytest.mark.parametrize("modalities", [[], ["slide", "rna"], ["clinical"], ["rna"]])
def test_predictions_of_a_cohort_are_those_of_its_members(auto, cohort, tmp_path, modalities):
    """With every modality and with fewer: the table's risks from members' standings by hand, months by the table."""
    out = tmp_path / "predictions.csv"
    options = ["--modalities", *modalities] if modalities else []
    assert survfuse(["predict", str(cohort), "--model", str(auto), "--out", str(out), *options]) == 0
    found, bundle = read_table(out), load(auto)
    name = "+".join(modalities) if modalities else FULL
    patients, members = read_cohort(cohort, tmp_path), load_members(bundle)
    assert list(found) == list(patients.ids)
    genes = {gene: place for place, gene in enumerate(patients.genes)}
    chosen = [genes[gene] for gene in bundle.expression.genes]
    for row in (0, 17, 59):
        total = 0.0
        rna = torch.from_numpy(bundle.expression.transformed(patients.expression[[row]][:, chosen]))
        clinical = torch.from_numpy(bundle.vocabulary.encode(patients.clinical[row]).values)[None]
        given = {"slide": patients.bags[row].rows(None)[None], "rna": rna, "clinical": clinical}
        case = [value if part in name.split("+") else None for part, value in given.items()]
        for member in members:
            if name in member.standings:
                network = build(member.family, member.sizes).eval()
                network.load_state_dict(member.state)
                standing = member.standings[name]
                with torch.no_grad():
                    total += standing.weight * (network(*case).risk.item() - standing.location) / standing.scale
        scale = bundle.manifest.combinations[name]
        risk = found[patients.ids[row]]["risk"]
        assert risk == pytest.approx((total - scale.location) / scale.scale, rel=1e-3, abs=1e-4)
        assert found[patients.ids[row]]["months"] == pytest.approx(
            float(bundle.calibration.months(risk).months), rel=1e-9
        )


def test_predictions_need_no_outcome_and_evaluation_gives_the_challenges_figure(
    bundle, cohort, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(api, "evaluate", partial(api.evaluate, draws=20))  # intervals are tested elsewhere
    without = Path(shutil.copytree(cohort, tmp_path / "without"))
    outcomes = []
    for folder in sorted((without / "data").iterdir()):
        path = folder / f"{folder.name}_CD.json"
        variables = json.loads(path.read_text())
        outcomes.append((folder.name, variables["Time_to_prog_or_FUend"], variables["progression"]))
        edit_json(path, Time_to_prog_or_FUend=None, progression=None)
    tables = []
    for root in (cohort, without):
        tables.append(tmp_path / f"{root.name}.csv")
        assert survfuse(["predict", str(root), "--model", str(bundle), "--out", str(tables[-1])]) == 0
    assert tables[0].read_bytes() == tables[1].read_bytes()
    truth = tmp_path / "outcomes.csv"
    truth.write_text("case_id,time,event\n" + "".join(f"{name},{time},{event}\n" for name, time, event in outcomes))
    capsys.readouterr()
    assert survfuse(["evaluate", str(tables[0]), str(truth), "--json", str(tmp_path / "figures.json")]) == 0
    months = np.array([row["months"] for row in read_table(tables[0]).values()])
    times, events = (np.array(column, dtype=float) for column in list(zip(*outcomes, strict=True))[1:])
    expected = concordance_index_censored(events == 1, times, -months)[0]
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["challenge_concordance"]["value"] == pytest.approx(expected, abs=1e-12)
    assert f"{expected:.3f}" in capsys.readouterr().out
    assert survfuse(["train", str(without), "--out", str(tmp_path / "none"), *TINY]) == 2
    assert "60 patients cannot be used" in capsys.readouterr().err
    assert survfuse(["train", str(without), "--out", str(tmp_path / "b"), "--outcomes", str(truth), *TINY]) == 0
    same_bytes(bundle, tmp_path / "b")


@pytest.mark.parametrize("fusion", ["clinical", "rna", "slide+rna", "concat"])
def test_each_fusion_trains_and_asks_for_what_it_uses(cohort, tmp_path, fusion):
    root = tmp_path / "bundle"
    assert survfuse(["train", str(cohort), "--out", str(root), *TINY, f"--fusion={fusion}"]) == 0
    bundle = load(root)
    assert {member.family for member in bundle.manifest.members} == {fusion}
    assert ("rna" in bundle.modalities) == (bundle.expression is not None) == (fusion != "clinical")
    assert ("clinical" in bundle.modalities) == (bundle.vocabulary is not None) == (fusion in ("clinical", "concat"))


def test_complete_cases_alone_can_be_trained_for(cohort, tmp_path, capsys):
    root = tmp_path / "bundle"
    assert survfuse(["train", str(cohort), "--out", str(root), *TINY, "--modality-dropout=0"]) == 0
    assert list(load(root).manifest.combinations) == [FULL]
    command = ["predict", str(cohort), "--model", str(root), "--out", str(tmp_path / "p.csv"), "--modalities", "rna"]
    assert survfuse(command) == 2
    assert f"slide, clinical left out on request; this bundle scores {FULL}" in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()


def test_a_cohort_without_slides_trains_the_families_that_need_none(cohort, tmp_path):
    bare = Path(shutil.copytree(cohort, tmp_path / "bare", ignore=shutil.ignore_patterns("features")))
    root = tmp_path / "bundle"
    options = ["--modalities", "rna", "clinical", "--fusion=auto"]
    assert survfuse(["train", str(bare), "--out", str(root), *TINY, *options]) == 0
    candidates = load(root).manifest.provenance["candidates"]
    assert candidates == ["clinical", "cox-rna", "cox-rna+clinical", "rna+clinical"]
    assert survfuse(["train", str(bare), "--out", str(tmp_path / "none"), *TINY, *options[:3]]) == 2


def task_of(*modalities: str) -> Task:
    return replace(TASK, name="+".join(modalities), modalities=modalities)


@pytest.mark.parametrize(
    ("modalities", "pairs", "candidates"),
    [
        (("clinical",), (), ["clinical"]),
        (("slide",), (), ["cox-slide"]),
        (("rna", "clinical"), (3,), ["clinical", "cox-rna", "cox", "bilinear"]),
        (("clinical", "slide"), (3,), ["clinical", "cox-slide", "cox", "bilinear"]),
    ],
)
def test_a_task_of_other_modalities_trains_its_own_families(cohort, tmp_path, modalities, pairs, candidates):
    task = task_of(*modalities)
    patients = read_cohort(cohort, tmp_path / "cache", task=task)
    protocol = Protocol(folds=2, inner=2, optimisation=Optimisation(epochs=3))
    settings = SlideSettings("uni", 1024, 224)
    train(patients, protocol, replace(SIZES, pairs=pairs), settings, tmp_path / "b", tmp_path / "work", draws=5)
    bundle = load(tmp_path / "b", task)
    assert bundle.manifest.provenance["candidates"] == candidates
    assert next(iter(bundle.manifest.combinations)) == "+".join(modalities)
    assert bundle.modalities == modalities


def test_protocols_and_widths_that_do_not_fit_the_cohort_or_its_task_are_refused(cohort, tmp_path):
    patients = read_cohort(cohort, tmp_path, modalities=["rna", "clinical"])
    for protocol, sizes, message in (
        (Protocol(fusion="bilinaer"), SIZES, "unknown fusion 'bilinaer'; expected auto, bilinear"),
        (Protocol(fusion="cox-slide"), SIZES, "cox-slide needs slide, which the cohort does not have"),
        (Protocol(), replace(SIZES, pairs=(3,)), "expected 3 widths of pairs, found 1"),
        (Protocol(folds=20), SIZES, "25 events among 60 patients: 20 folds need at least 40"),
    ):
        with pytest.raises(InputError, match=message):
            training_data(patients, protocol, sizes)
    bare = replace(patients, expression=None, genes=(), clinical=tuple({} for _ in patients.ids))
    with pytest.raises(InputError, match="no modality that a family could be trained on"):
        training_data(bare, Protocol(), SIZES)


def test_cohorts_without_censoring_train_and_constant_expression_is_refused(cohort, tmp_path, capsys):
    everyone, flat = (Path(shutil.copytree(cohort, tmp_path / name)) for name in ("everyone", "flat"))
    for path in everyone.glob("data/*/*_CD.json"):
        edit_json(path, progression=1)
    for path in flat.glob("data/*/*_RNA.json"):
        path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), 3.0)))
    assert survfuse(["train", str(everyone), "--out", str(tmp_path / "all"), *AUTO]) == 0
    assert load(tmp_path / "all").manifest.provenance["events"] == 60
    capsys.readouterr()
    assert survfuse(["train", str(flat), "--out", str(tmp_path / "none"), *TINY]) == 2
    captured = capsys.readouterr()
    assert "no gene differs between patients" in captured.err and "trained" not in captured.out
    assert survfuse(["train", str(flat), "--out", str(tmp_path / "rest"), *AUTO, "--modalities", "clinical"]) == 0
    card = (tmp_path / "rest/model-card.md").read_text()
    assert "Tile features" not in card and "D-calibration" in card


def test_survival_curves_of_a_cohort_are_those_of_the_bundle(auto, cohort, tmp_path, capsys):
    """With fewer modalities: the curve of that combination, at each year to the end of follow-up."""
    out, survival = tmp_path / "p.csv", tmp_path / "s.csv"
    command = ["predict", str(cohort), "--model", str(auto), "--out", str(out), "--survival", str(survival)]
    assert survfuse([*command, "--modalities", "slide", "clinical"]) == 0
    risks = {name: row["risk"] for name, row in read_table(out).items()}
    curve, found = load(auto).curves["slide+clinical"], read_table(survival)
    assert list(found) == list(risks)
    years = [float(month) for month in next(iter(found.values()))]
    assert years == [12.0 * (k + 1) for k in range(len(years))] and years[-1] <= curve.times[-1] < years[-1] + 12.0
    for name, row in found.items():
        hazard = [curve.hazard[curve.times <= month].max(initial=0.0) for month in years]
        expected = np.exp(-np.array(hazard) * np.exp(curve.coefficient * (risks[name] - curve.centre)))
        assert list(row.values()) == pytest.approx(expected, abs=1e-12)
    assert survfuse([*command[:-1], str(tmp_path / "none/s.csv")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_every_broken_patient_is_reported_at_once(cohort, tmp_path, capsys):
    broken = Path(shutil.copytree(cohort, tmp_path / "broken"))
    (broken / "data/3S_01/3S_01_RNA.json").unlink()
    (broken / "features/features/3S_02_HE.pt").write_bytes(b"torn")
    edit_json(broken / "data/3S_03/3S_03_CD.json", progression=2)
    assert survfuse(["train", str(broken), "--out", str(tmp_path / "none"), *TINY]) == 2
    message = capsys.readouterr().err
    assert "3 patients cannot be used" in message
    assert all(f"3S_0{number}:" in message for number in (1, 2, 3))
    assert not (tmp_path / "none").exists()


def test_options_that_cannot_be_met_are_refused_before_training(cohort, tmp_path, capsys):
    (tmp_path / "bad.bin").write_text("no weights")
    for options in (
        ["--assume-mpp=0"], ["--assume-mpp=nan"], ["--folds=1"], ["--inner=1"], ["--repeats=0"], ["--genes=0"],
        ["--learning-rate=0"], ["--modality-dropout=1"], ["--mpp=100"], ["--bag=0", "--rank=2"], ["--rank=-1"],
        ["--seed=-1"], ["--tiles=0"], ["--device=cuda"], [f"--weights={tmp_path / 'bad.bin'}"],
    ):  # fmt: skip
        assert survfuse(["train", str(cohort), "--out", str(tmp_path / "none"), *TINY, *options]) in (2, 4)
        captured = capsys.readouterr()
        assert len(captured.err.splitlines()) == 1 and "trained" not in captured.out, options
    assert not (tmp_path / "none").exists()


def test_a_model_folder_with_its_readme_takes_a_bundle(cohort, bundle, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/README.md").write_text("your bundle goes here")
    assert survfuse(["train", str(cohort), "--out", str(tmp_path / "model"), *TINY]) == 0
    load(tmp_path / "model")
    assert (tmp_path / "model/README.md").read_text() == "your bundle goes here"
    assert survfuse(["train", str(cohort), "--out", str(tmp_path / "model"), *TINY]) == 2


def test_raw_expression_and_rank_calibration_can_be_chosen(cohort, tmp_path):
    out = tmp_path / "raw"
    options = ["--transform", "identity", "--calibration", "rank", "--select", "none"]
    assert survfuse(["train", str(cohort), "--out", str(out), *TINY, *options]) == 0
    frozen, patients = load(out), read_cohort(cohort, tmp_path)
    assert (frozen.expression.transform, frozen.calibration.mode) == ("identity", "rank")
    case = dict(zip(patients.genes, patients.expression[0].tolist(), strict=True))
    assert frozen.expression.encode(case).values == pytest.approx([case[g] for g in frozen.expression.genes], rel=1e-6)
    assert not frozen.expression.encode(case).warnings
    assert frozen.expression.encode({gene: 1000 * value for gene, value in case.items()}).warnings
