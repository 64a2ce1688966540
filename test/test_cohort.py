"""Cohorts in either layout, bags larger than memory, every problem at once, and the features of many slides."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MASK, ROOT, SLIDE, edit_json

from survfuse.cohort import feature_file
from survfuse.cohort.bags import Bag, open_bag
from survfuse.cohort.extract import Extraction, extract_cohort
from survfuse.cohort.layout import patient_of
from survfuse.cohort.read import read_cohort
from survfuse.cohort.simulate import simulate
from survfuse.cohort.slide_list import find_slides
from survfuse.inputs.features import read_features, write_features
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.slide import extract as slide_extract
from survfuse.slide.registry import ENCODERS
from survfuse.slide.settings import SlideSettings
from survfuse.slide.weights import embedded_weights
from survfuse.tasks.chimera3 import TASK
from survfuse.tasks.task import CohortLayout, OutcomeKeys
from survfuse.workers.executor import LocalExecutor

TIME = "Time_to_prog_or_FUend"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Six simulated patients with ten genes in CHIMERA's layout, ids 3S_1 to 3S_6."""
    root = tmp_path_factory.mktemp("drawn") / "published"
    simulate(root, 6, 11, genes=10, tiles=5)
    return root


@pytest.fixture
def published(drawn, tmp_path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "published"))


@pytest.fixture
def reference_layout(drawn, tmp_path) -> Path:
    """The same patients as the CHIMERA reference keeps them, their outcomes in a CSV alone."""
    root = tmp_path / "reference"
    for folder in ("pt_files", "clinics", "seqs"):
        (root / folder).mkdir(parents=True)
    rows = []
    for folder in sorted((drawn / "data").iterdir()):
        name = folder.name
        variables = json.loads((folder / f"{name}_CD.json").read_text())
        rows.append([name, f"{name}_HE", variables.pop(TIME), variables.pop("progression")])
        (root / "clinics" / f"{name}_CD.json").write_text(json.dumps(variables))
        shutil.copy(folder / f"{name}_RNA.json", root / "seqs")
        shutil.copy(drawn / "features/features" / f"{name}_HE.pt", root / "pt_files")
    frame = pd.DataFrame(rows, columns=["case_id", "slide_id", "Time", "Progression"])
    frame.to_csv(root / "outcomes.csv", index=False)
    return root


def features_of(root: Path, name: str) -> Path:
    return root / "features/features" / name


def problems(root: Path, *arguments, **named) -> str:
    """The one line that lists everything wrong with a cohort."""
    with pytest.raises(InputError) as raised:
        read_cohort(root, root.parent / "cache", *arguments, **named)
    return raised.value.line()


def test_a_cohort_is_what_its_files_hold(published, tmp_path):
    found = read_cohort(published, tmp_path / "cache")
    frame = pd.DataFrame({name: json.loads(_part(published, name, "RNA").read_text()) for name in found.ids}).T
    frame = frame.sort_index(axis=1)
    assert found.ids == tuple(f"3S_{number}" for number in range(1, 7)) and found.simulated
    assert found.genes == tuple(frame.columns) and np.array_equal(found.expression, frame.to_numpy())
    for place, name in enumerate(found.ids):
        variables = json.loads(_part(published, name, "CD").read_text())
        assert (found.events[place], found.times[place]) == (variables.pop("progression"), variables.pop(TIME))
        assert found.clinical[place] == variables
        expected = torch.load(features_of(published, f"{name}_HE.pt"), weights_only=True)
        assert torch.equal(found.bags[place].rows(), expected)
    assert found.times.dtype == np.float64 and found.events.dtype == bool and found.encoder is None


def test_both_layouts_give_the_same_cohort(published, reference_layout, tmp_path):
    one, other = (read_cohort(root, tmp_path / "cache") for root in (published, reference_layout))
    assert (one.ids, one.genes, one.clinical) == (other.ids, other.genes, other.clinical)
    assert np.array_equal(one.times, other.times) and np.array_equal(one.events, other.events)
    assert np.array_equal(one.expression, other.expression)
    assert all(torch.equal(a.rows(), b.rows()) for a, b in zip(one.bags, other.bags, strict=True))
    assert not other.simulated  # simulation.json was left behind


def test_what_is_not_asked_for_is_not_looked_at(published, reference_layout, tmp_path):
    shutil.rmtree(published / "features")
    for name in ("3S_1", "3S_2"):
        _part(published, name, "RNA").write_text("torn")
    found = read_cohort(published, tmp_path / "cache", modalities=("clinical",))
    assert found.bags is None and found.expression is None and found.genes == () and found.clinical[0]
    for folder in ("clinics", "seqs"):
        shutil.rmtree(reference_layout / folder)
    found = read_cohort(reference_layout, tmp_path / "cache", modalities=("slide",))
    assert len(found.bags) == 6 and found.clinical == ({},) * 6 and found.expression is None
    assert "modalities" in problems(published, modalities=("pixels",))


def test_genes_that_some_patients_lack_are_nan(published, tmp_path):
    path = _part(published, "3S_2", "RNA")
    values = json.loads(path.read_text())
    gone = next(iter(values))
    del values[gone]
    path.write_text(json.dumps({"A_NEW_GENE": 1.5, **dict(reversed(values.items()))}))
    found = read_cohort(published, tmp_path / "cache", modalities=("rna",))
    frame = pd.DataFrame({name: json.loads(_part(published, name, "RNA").read_text()) for name in found.ids}).T
    assert np.array_equal(found.expression, frame[list(found.genes)].to_numpy(), equal_nan=True)
    assert np.isnan(found.expression[1, found.genes.index(gone)]) and np.isnan(found.expression).sum() == 6


# Another task

OTHER = replace(
    TASK,
    name="other",
    modalities=("rna", "clinical"),
    outcome=OutcomeKeys("relapse", "months", ("relapse",), ("months",), 100.0),
    missing_codes=("unknown",),
    plausible={"age": (100.0, 200.0)},
    layouts=(
        CohortLayout("theirs", ("patients",), "patients/{id}/{id}.json", "rna/{id}.json", ("tiles/h5",)),
        CohortLayout("flat", ("variables", "genes"), "variables/{id}_V.json", "genes/{id}_G.json", ("tiles",), True),
    ),
    simulated_variables=lambda traits, _: [{"age": 150, "T1": str(bool(t1))} for t1 in traits.advanced],
)


def test_a_cohort_of_another_task_is_written_and_read_by_its_description(tmp_path):
    simulate(tmp_path / "one", 4, 7, genes=9, tiles=2, task=OTHER)
    written = {path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("3S_2*.*")}
    assert written == {
        *("patients/3S_2/3S_2.json", "rna/3S_2.json", "tiles/h5/3S_2_HE.pt", "tiles/coordinates/3S_2_HE.npy")
    }
    cohort = read_cohort(tmp_path / "one", tmp_path / "cache", task=OTHER)
    assert cohort.task is OTHER and cohort.bags is None and cohort.expression.shape == (4, 9)
    stored = json.loads((tmp_path / "one/patients/3S_2/3S_2.json").read_text())
    assert set(stored) == {"age", "T1", "relapse", "months"} and set(cohort.clinical[1]) == {"age", "T1"}
    assert (cohort.events[1], cohort.times[1]) == (stored["relapse"] == 1, stored["months"])
    with pytest.raises(InputError, match="expected patients in folders data/<id>, or in folders clinics, seqs"):
        read_cohort(tmp_path / "one", tmp_path / "cache")
    for folder in ("variables", "genes"):
        (tmp_path / "two" / folder).mkdir(parents=True)
    rows = []
    for name in cohort.ids:
        variables = json.loads((tmp_path / "one/patients" / name / f"{name}.json").read_text())
        rows.append([name, variables.pop("months"), variables.pop("relapse")])
        (tmp_path / "two/variables" / f"{name}_V.json").write_text(json.dumps(variables))
        shutil.copy(tmp_path / "one/rna" / f"{name}.json", tmp_path / "two/genes" / f"{name}_G.json")
    table = pd.DataFrame(rows, columns=["case_id", "Months", "Relapse"])
    table.to_csv(tmp_path / "two/outcomes.csv", index=False)
    other = read_cohort(tmp_path / "two", tmp_path / "cache", task=OTHER)
    assert np.array_equal(other.times, cohort.times) and other.clinical == cohort.clinical
    table.loc[0, "Months"] = 100
    table.to_csv(tmp_path / "two/outcomes.csv", index=False)
    edit_json(tmp_path / "two/variables/3S_2_V.json", age=70)
    edit_json(tmp_path / "two/variables/3S_3_V.json", age="Unknown")
    line = problems(tmp_path / "two", task=OTHER)
    assert "2 problems" in line and "time: expected months of at least 0 and below 100, found '100';" in line
    assert "3S_2_V.json: clinical variable age: out of its plausible range, 100 to 200" in line
    assert "expected modalities among rna, clinical, found slide" in problems(
        tmp_path / "two", None, ["slide"], task=OTHER
    )


# Slides


def test_slides_of_a_patient_pool_into_one_bag(published, tmp_path):
    first = torch.load(features_of(published, "3S_1_HE.pt"), weights_only=True)
    second, third = torch.randn(3, 1024), torch.randn(1, 2, 1024).half()
    torch.save(second, features_of(published, "3S_1_HE_2.pt"))
    with h5py.File(features_of(published, "3S_1_HE3.h5"), "w") as file:
        file["features"] = third.numpy()
    bag = read_cohort(published, tmp_path / "cache").bags[0]
    expected = torch.cat([first, third[0].float(), second])  # in the order of their names
    assert bag.tiles == len(expected) and torch.equal(bag.rows(), expected)


def test_slides_of_a_patient_are_those_that_the_csv_lists(reference_layout, tmp_path):
    folder = reference_layout / "pt_files"
    (folder / "3S_1_HE.pt").rename(folder / "block A.pt")
    torch.save(torch.ones(2, 1024), folder / "block B.pt")
    frame = pd.read_csv(reference_layout / "outcomes.csv")
    frame.loc[0, "slide_id"] = "block A.svs"
    frame = pd.concat([frame, frame[:1].assign(slide_id="block B")])
    frame.to_csv(reference_layout / "outcomes.csv", index=False)
    bag = read_cohort(reference_layout, tmp_path / "cache").bags[0]
    assert torch.equal(bag.rows()[-2:], torch.ones(2, 1024)) and bag.tiles > 2
    frame.loc[1, "slide_id"] = "3S_3_HE"
    frame.to_csv(reference_layout / "outcomes.csv", index=False)
    line = problems(reference_layout)
    assert "3S_3: outcomes.csv, line 4: the slide 3S_3_HE is listed for 3S_2 as well" in line
    assert "3S_2: 3S_3_HE.pt: is named after 3S_3" in line


def test_clams_two_folders_are_one_slide_each(reference_layout, tmp_path):
    (reference_layout / "h5_files").mkdir()
    for path in (reference_layout / "pt_files").iterdir():
        values = torch.load(path, weights_only=True)
        write_features(reference_layout / "h5_files" / f"{path.stem}.h5", values, np.zeros((len(values), 2)), {}, {})
    before = read_cohort(reference_layout, tmp_path / "cache").bags
    shutil.rmtree(reference_layout / "pt_files")
    after = read_cohort(reference_layout, tmp_path / "cache").bags
    assert all(torch.equal(a.rows(), b.rows()) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("stem", "patient"),
    [
        ("3A_001_HE", "3A_001"),
        ("3A_001_HE_2", "3A_001"),
        ("3A_001_HE2", "3A_001"),
        ("3A_001_HE_mask", "3A_001"),
        ("3A_001_2_HE", "3A_001_2"),
        ("3A_0011_HE", None),
        ("3A_001", None),
        ("3A_001_HEALTHY", None),
        ("a_HE_HE", "a_HE"),
    ],
)
def test_a_slide_is_the_longest_matching_patients(stem, patient):
    assert patient_of(stem, ["3A", "3A_001", "3A_001_2", "a", "a_HE"]) == patient


# Outcomes


@pytest.mark.parametrize(("time", "event"), [("Time", "Progression"), ("time_months", "event"), (TIME, "PROGRESSION")])
def test_outcomes_are_taken_from_a_csv_in_any_spelling(published, tmp_path, time, event):
    before = read_cohort(published, tmp_path / "cache", modalities=("clinical",))
    for name in before.ids:
        edit_json(_part(published, name, "CD"), **{"progression": None, TIME: None})
    table = tmp_path / "given.csv"
    frame = pd.DataFrame({"Case_ID": before.ids, event: before.events.astype(int), time: before.times, "split": 0})
    frame.sample(frac=1.0, random_state=0).to_csv(table, index=False)
    after = read_cohort(published, tmp_path / "cache", table, ("clinical",))
    assert np.array_equal(before.times, after.times) and np.array_equal(before.events, after.events)
    assert "3S_1: 3S_1_CD.json: states no progression" in problems(published, modalities=("clinical",))


def test_the_published_outcomes_are_read(reference, tmp_path):
    """All patients of CHIMERA's training cohort, without any of their files: they are counted as missing."""
    (tmp_path / "root" / "pt_files").mkdir(parents=True)
    known = pd.read_csv(reference / "outcomes.csv")
    line = problems(tmp_path / "root", reference / "outcomes.csv", ("slide",))
    assert f"{len(known)} patients ({known['case_id'].min()}, " in line and "without tile features <id>_HE*" in line
    for name in known["case_id"]:
        torch.save(torch.ones(1, 2), tmp_path / "root" / "pt_files" / f"{name}_HE.pt")
    found = read_cohort(tmp_path / "root", tmp_path / "cache", reference / "outcomes.csv", ("slide",))
    known = known.set_index("case_id").loc[list(found.ids)]
    assert np.array_equal(found.times, known["time_months"]) and np.array_equal(found.events, known["event"] == 1)


def test_outcomes_that_contradict_each_other_are_named(published, tmp_path):
    before = read_cohort(published, tmp_path / "cache", modalities=("clinical",))
    frame = pd.DataFrame({"case_id": before.ids, "time": before.times, "event": before.events.astype(int)})
    frame.loc[0, "time"] += 1.0
    frame.loc[1, "event"] = 1 - frame.loc[1, "event"]
    frame.loc[3, "case_id"] = "3S_2"  # so 3S_4 has no row, which its own file makes good
    frame.loc[4, "time"] = -2.0
    frame.loc[len(frame)] = ["3S_9", 3.0, 1]
    table = tmp_path / "given.csv"
    frame.to_csv(table, index=False)
    line = problems(published, table, ("clinical",))
    assert f"3S_1: 3S_1_CD.json: {TIME} differs from given.csv" in line
    assert "3S_2: 3S_2_CD.json: progression differs from given.csv" in line
    assert "3S_2: given.csv, line 5: its outcome differs from an earlier line" in line
    assert "3S_5: given.csv, line 6: time: expected months" in line
    assert "3S_9: is in given.csv, but there is no folder data/3S_9" in line
    assert "3S_3:" not in line and "3S_4:" not in line and "3S_6:" not in line


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("case_id,time\n3S_1,3\n", "the column progression or event is missing"),
        ("case_id,Time,time_months,event\n3S_1,3,3,1\n", "time or time_months or time_to_prog_or_fuend occurs more"),
        ("case_id,time,event\n3S_1,3\n", "line 2: expected 3 cells, found 2"),
        ("case_id,time,event\n,3,1\n", "line 2: no case_id"),
        ("case_id,time,event\n3S_1,3,2\n", "line 2: event: expected 0 or 1"),
        ("case_id,time,event\n3S_1,nan,1\n", "line 2: time: expected months"),
        ('case_id,time,event\n"3S_1,3,1\n', "cannot be read as CSV"),
        (b"case_id,time,event\n\xff,3,1\n", "cannot be read as CSV"),
        ("", "the column case_id is missing"),
    ],
)
def test_a_csv_that_cannot_be_used_is_named(published, tmp_path, text, problem):
    table = tmp_path / "given.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert problem in problems(published, table, ("clinical",))


def test_an_unreadable_csv_hides_no_other_problem(reference_layout):
    (reference_layout / "outcomes.csv").write_text("what,is,this\n")
    (reference_layout / "seqs/3S_4_RNA.json").unlink()
    line = problems(reference_layout)
    assert "2 problems" in line and "case_id is missing" in line and "3S_4: 3S_4_RNA.json: no such file" in line
    assert "given.csv: cannot be read" in problems(reference_layout, reference_layout / "given.csv")
    shutil.copy(reference_layout / "outcomes.csv", reference_layout / "another.csv")
    assert "expected one CSV of outcomes, found another.csv, outcomes.csv" in problems(reference_layout)


# Problems


def test_every_problem_is_listed_at_once(published, tmp_path):
    """Two or three in one patient, one in each of the others, and files that belong to nobody."""
    data = published / "data"
    edit_json(data / "3S_1/3S_1_CD.json", age=200, no_instillations="many", sex=["Male"], progression=2)
    values = json.loads((data / "3S_1/3S_1_RNA.json").read_text())
    first, second, *_ = values
    (data / "3S_1/3S_1_RNA.json").write_text(json.dumps(values | {first: 1e39, second: "high"}))
    features_of(published, "3S_1_HE.pt").write_bytes(b"torn")
    broken = torch.randn(70, 1024)
    broken[41, 3] = float("nan")
    torch.save(broken, features_of(published, "3S_2_HE.pt"))
    (data / "3S_2/3S_2_CD.json").unlink()
    shutil.copy(data / "3S_1/3S_1_CD.json", data / "3S_2/3S_1_CD.json")
    (data / "3S_3/3S_3_RNA.json").rename(data / "3S_3/3S_4_RNA.json")
    (data / "3S_4/3S_4_HE.tif").touch()
    (data / "3S_4/3S_5_HE_mask.tif").touch()
    features_of(published, "3S_5_HE.pt").unlink()
    torch.save(torch.ones(1, 1024), features_of(published, "3S_7_HE.pt"))
    torch.save(torch.ones(1, 1024), features_of(published, "3S_6_HE_2.pt"))
    write_features(features_of(published, "3S_6_HE_2.h5"), torch.ones(1, 1024), np.zeros((1, 2)), {}, {})
    (published / "features/features/.3S_8_HE.pt").touch()  # hidden: not anybody's
    line = problems(published)
    for expected in (
        "3S_1: 3S_1_CD.json: clinical variable age: out of its plausible range",
        "3S_1: 3S_1_CD.json: clinical variable no_instillations: expected a number, found 'many'",
        "3S_1: 3S_1_CD.json: clinical variable sex: expected a category, found an array",
        "3S_1: 3S_1_CD.json: progression: expected 0 or 1",
        f"3S_1: 3S_1_RNA.json: expression of '{first}': expected a finite value",
        f"expression of '{second}': expected a number, found a string",
        "3S_1: 3S_1_HE.pt: cannot be read as a torch file",
        "3S_2: 3S_2_HE.pt: features of tile 41 are NaN or infinite",
        "3S_2: 3S_2_CD.json: no such file",
        "3S_2: data/3S_2/3S_1_CD.json: is not named after its folder's patient",
        "3S_3: 3S_3_RNA.json: no such file",
        "3S_3: data/3S_3/3S_4_RNA.json: is not named after its folder's patient",
        "3S_4: data/3S_4/3S_5_HE_mask.tif: is not named after its folder's patient",
        "3S_5: no features 3S_5_HE*.pt, .h5 or .hdf5 in features/features",
        "features/3S_7_HE.pt: no patient of that name",
        "features/features: both 3S_6_HE_2.h5 and 3S_6_HE_2.pt",
    ):
        assert expected in line
    assert "15 problems, 5 patients cannot be used" in line and len(line.splitlines()) == 1


def test_patients_whose_features_are_unlike_the_others_are_named(published, tmp_path):
    for number in range(1, 7):
        values = torch.ones(2, 8 if number == 4 else 1024)
        stated = {2: "uni_v1", 3: "phikon", 5: "uni", 6: "uni"}.get(number)
        features_of(published, f"3S_{number}_HE.pt").unlink()
        path = features_of(published, f"3S_{number}_HE.h5")
        write_features(path, values, np.zeros((2, 2)), {"encoder": stated} if stated else {}, {})
    line = problems(published)
    assert "2 problems" in line
    assert "features of length 1024 in 5 patients, but 8 in 3S_4" in line
    assert "features of encoder uni in 3 patients, but phikon in 3S_3" in line
    for number in (3, 4):
        write_features(features_of(published, f"3S_{number}_HE.h5"), torch.ones(2, 1024), np.zeros((2, 2)), {}, {})
    assert read_cohort(published, tmp_path / "cache").encoder == "uni"


def test_a_root_of_no_or_two_layouts_is_refused(published, tmp_path):
    (tmp_path / "empty" / "data").mkdir(parents=True)
    assert "expected patients" in problems(tmp_path / "empty") and "expected patients" in problems(tmp_path)
    (published / "pt_files").mkdir()
    assert "expected the folders of one layout" in problems(published)


# Bags


def _write_h5(path: Path, values: np.ndarray, **how) -> Path:
    with h5py.File(path, "w", userblock_size=how.pop("userblock", 0)) as file:
        file.create_dataset("before", data=np.zeros(how.pop("before", 8), np.int8))
        file.create_dataset("features", data=values, **how)
    return path


@pytest.mark.parametrize(
    ("how", "copies"),
    [
        ({}, 0),
        ({"userblock": 512}, 0),
        ({"before": 3}, 1),  # what follows three bytes lies where no float may
        ({"dtype": "f2"}, 0),
        ({"dtype": "f8"}, 0),
        ({"dtype": ">f4"}, 1),
        ({"chunks": (64, 30)}, 1),
        ({"chunks": (5000, 30), "compression": "gzip", "dtype": "f2"}, 1),
        ({"chunks": (1, 30), "compression": "lzf", "dtype": "f8"}, 1),
    ],
)
def test_hdf5_is_mapped_where_it_can_be_and_copied_once_where_not(tmp_path, how, copies):
    values = np.random.default_rng(0).standard_normal((5000, 30))
    path, cache = _write_h5(tmp_path / "a.h5", values, **how), tmp_path / "cache"
    expected = read_features(path).values
    for _ in range(2):
        bag = open_bag([path], cache)
        assert bag.rows().dtype == torch.float32 and torch.equal(bag.rows(), expected)
        made = {copy: copy.stat().st_mtime_ns for copy in cache.glob("*.npy")}
        assert len(made) == copies and len(list(cache.iterdir())) == 1
    for copy in made:
        kept = np.load(copy)
        assert np.array_equal(kept.astype("f4"), expected) and kept.dtype == (
            "f2" if how.get("dtype") == "f2" else "f4"
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_are_mapped_or_copied(tmp_path, dtype, legacy):
    values = torch.randn(1, 4100, 6).to(dtype)
    torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    bag = open_bag([tmp_path / "a.pt"], tmp_path / "cache")
    assert torch.equal(bag.rows(), values[0].float()) and (bag.tiles, bag.dimension) == (4100, 6)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == legacy


def test_views_and_compressed_archives_are_read_as_torch_reads_them(tmp_path):
    import zipfile

    values = torch.randn(7, 9)
    torch.save(torch.nn.Parameter(values.T[2:]), tmp_path / "view.pt")
    assert torch.equal(open_bag([tmp_path / "view.pt"], tmp_path / "cache").rows(), values.T[2:])
    torch.save(values, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as plain, zipfile.ZipFile(tmp_path / "b.pt", "w") as packed:
        for entry in plain.namelist():
            packed.writestr(entry.replace("a/", "b/", 1), plain.read(entry), zipfile.ZIP_DEFLATED)
    assert torch.equal(open_bag([tmp_path / "b.pt"], tmp_path / "cache").rows(), values)


def test_a_bag_gives_the_tiles_asked_for_in_their_order():
    parts = [torch.randn(5, 4), torch.randn(1, 3, 4).double(), torch.randn(600, 4).half()]
    bag, whole = Bag(parts), torch.cat([parts[0], parts[1][0].float(), parts[2].float()])
    index = np.random.default_rng(1).integers(0, 608, 900)
    for asked in (index, index[::-1], np.array([607, 0, 7, 8, 4, 5]), np.zeros(0, np.int64)):
        assert torch.equal(bag.rows(asked), whole[asked.copy()])
    assert torch.equal(torch.cat(list(bag.chunks(7))), whole) and max(map(len, bag.chunks(7))) == 7
    assert torch.equal(bag.rows(), whole) and Bag.of(whole).rows() is not None and bag.tiles == 608
    for outside in (-1, 608):
        with pytest.raises(IndexError):
            bag.rows(np.array([0, outside]))
    with pytest.raises(InputError, match="lengths: 3, 4"):
        Bag([torch.zeros(1, 4), torch.zeros(1, 3)])


def test_values_are_checked_once_and_again_where_the_file_changed(tmp_path, monkeypatch):
    path, cache, checked = tmp_path / "a.pt", tmp_path / "cache", []
    whole = feature_file._finite
    monkeypatch.setattr(feature_file, "_finite", lambda path, *blocks: checked.append(path) or whole(path, *blocks))
    torch.save(torch.zeros(5, 3), path)
    for _ in range(3):
        open_bag([path], cache)
    assert len(checked) == 1
    torch.save(torch.full((5, 3), torch.inf), path)
    os.utime(path, ns=(1, 1))
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.pt: features of tile 0 are NaN or infinite"):
            open_bag([path], cache)


@pytest.mark.parametrize("how", [{}, {"chunks": (7, 3)}])
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (np.zeros((4, 3), int), "expected a dataset 'features' of floating-point numbers"),
        (np.zeros((2, 4, 3)), "expected features"),
        (np.zeros(4), "expected features"),
        (np.zeros((0, 3)), "holds no tiles"),
        (np.where(np.arange(9000)[:, None] == 8191, np.nan, np.zeros((9000, 3))), "of tile 8191 are NaN or infinite"),
        (np.full((4, 3), 1e300), "of tile 0 are NaN or infinite"),
    ],
)
def test_hdf5_that_cannot_be_used_is_refused_and_leaves_nothing(tmp_path, values, problem, how):
    path = _write_h5(tmp_path / "a.h5", values, **(how if values.ndim == 2 and len(values) > 6 else {}))
    with pytest.raises(InputError, match=rf"^a\.h5: .*{problem}"):
        open_bag([path], tmp_path / "cache")
    with pytest.raises(InputError, match=problem):
        read_features(path)  # the same refusal where features are read whole
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (torch.zeros(4, 3, dtype=torch.int64), "expected a tensor of floating-point numbers"),
        (torch.zeros(2, 4, 3), "expected features"),
        (torch.zeros(0, 3), "holds no tiles"),
        (torch.zeros(4, 0), "expected features"),
        ({"features": torch.zeros(4, 3)}, "expected a tensor, found dict"),
        (torch.eye(3).to_sparse(), "expected a dense tensor"),
        (Path("a"), "cannot be read as a torch file"),
    ],
)
def test_torch_files_that_cannot_be_used_are_refused(tmp_path, value, problem):
    for legacy in (False, True):
        torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(InputError, match=rf"a\.pt: {problem}"):
            open_bag([tmp_path / "a.pt"], tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_torn_hdf5_is_refused_before_it_is_mapped(tmp_path):
    path = _write_h5(tmp_path / "a.h5", np.zeros((5000, 30)))
    for size in (10, 5000, path.stat().st_size - 8):
        os.truncate(path, size)
        with pytest.raises(InputError, match=r"^a\.h5: "):
            open_bag([path], tmp_path / "cache")


def test_slides_of_one_patient_must_be_of_one_encoder_and_length(tmp_path):
    def write(name: str, length: int, encoder: str) -> Path:
        write_features(tmp_path / name, torch.ones(2, length), np.zeros((2, 2)), {"encoder": encoder}, {})
        return tmp_path / name

    alike = [write("a.h5", 4, "uni"), write("b.h5", 4, "uni_v1")]
    assert open_bag(alike, tmp_path / "cache").encoder == "uni"
    with pytest.raises(InputError, match=r"lengths: 4 in a\.h5, 5 in c\.h5; .*encoders: uni in a\.h5, phikon in c\.h5"):
        open_bag([*alike, write("c.h5", 5, "phikon")], tmp_path / "cache")


def test_a_full_disk_is_the_machines_failure(tmp_path, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = _write_h5(tmp_path / "a.h5", np.zeros((50, 30)), chunks=(5, 30))
    monkeypatch.setattr(feature_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        open_bag([path], tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


_MEASURED = """
import sys, numpy as np
from pathlib import Path
from survfuse.cohort.bags import open_bag
from survfuse.workers.executor import LocalExecutor

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

root = Path(sys.argv[1])
paths = sorted(root.glob("*_HE.*"))
open_bag(paths[:1], root / "warm").rows(np.arange(3))
before = anonymous()
bags = [open_bag([path], root / "cache") for path in paths]
total = 0.0
for bag in bags:
    total += float(bag.rows(np.arange(0, bag.tiles, 50)).sum()) + sum(float(chunk[0, 0]) for chunk in bag.chunks(1000))
print(anonymous() - before, sum(bag.tiles * bag.dimension for bag in bags) * 4 / 2**20, total)
"""


def test_features_do_not_weigh_on_memory(tmp_path):
    """400 MB of features, in files with holes for zeros, are opened, checked and read in 32 MB of memory."""
    shape = (25_600, 1024)
    for number in range(3):
        with torch.serialization.skip_data():
            torch.save(torch.empty(shape), tmp_path / f"{number}_HE.pt")
    _sparse_h5(tmp_path / "3_HE.h5", shape)
    run = subprocess.run(
        [sys.executable, "-c", _MEASURED, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    grown, size, total = map(float, run.stdout.split())
    assert size == 400.0 and total == 0.0 and grown < 32.0


def _sparse_h5(path: Path, shape: tuple[int, int]) -> None:
    """Contiguous zeros that take no room on disk."""
    with h5py.File(path, "w") as file:
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(shape), create)


# Features of many slides

SETTINGS = SlideSettings("efficientnet-lite0", 1280, mpp=2.0)
CPU = torch.device("cpu")


@pytest.fixture
def slides(tmp_path) -> Path:
    """Three patients: one with a slide and its mask, one with two slides without, one whose slide is no slide."""
    root = tmp_path / "slides"
    for name in ("3A_1", "3A_2", "3A_3"):
        (root / "data" / name).mkdir(parents=True)
    shutil.copy(SLIDE, root / "data/3A_1/3A_1_HE.tif")
    shutil.copy(MASK, root / "data/3A_1/3A_1_HE_mask.tif")
    for name in ("3A_2_HE", "3A_2_HE_2"):
        shutil.copy(SLIDE, root / "data/3A_2" / f"{name}.tif")
    (root / "data/3A_3/3A_3_HE.tif").write_text("no slide")
    return root


def _extracted(root: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (root / "features/features").iterdir()}


def test_a_broken_slide_stops_no_other_and_a_second_run_goes_on(slides, tmp_path, capsys):
    with pytest.raises(InputError, match=r"1 file: 3A_3/3A_3_HE\.tif: 3A_3_HE\.tif: not a slide"):
        extract_cohort(slides, None, Extraction(SETTINGS), LocalExecutor(CPU))
    first = _extracted(slides)
    assert set(first) == {"3A_1_HE.h5", "3A_2_HE.h5", "3A_2_HE_2.h5"}
    assert "failed       3A_3/3A_3_HE.tif" in capsys.readouterr().out
    records = json.loads((slides / "extract.json").read_text())["slides"]
    names = ["3A_1/3A_1_HE.tif", "3A_2/3A_2_HE.tif", "3A_2/3A_2_HE_2.tif", "3A_3/3A_3_HE.tif"]
    assert [record["slide"] for record in records] == names
    assert [record["state"] for record in records] == ["extracted"] * 3 + ["failed"]
    for record, name in zip(records[:3], ("3A_1_HE", "3A_2_HE", "3A_2_HE_2"), strict=True):
        with h5py.File(slides / f"features/features/{name}.h5") as file:
            assert record["tiles"] == len(file["features"]) and record["seconds"] > 0.0 and record["attempts"] == 1
    assert records[3]["tiles"] is None and records[3]["reason"].startswith("3A_3_HE.tif: not a slide")
    with h5py.File(slides / "features/features/3A_1_HE.h5") as file:
        stated = dict(file.attrs)
    assert (stated["encoder"], stated["tile_px"], stated["tile_mpp"]) == ("efficientnet-lite0", 224, 2.0)
    assert (stated["min_coverage"], stated["mask"]) == (0.5, "3A_1_HE_mask.tif")

    # Mended, the third is all that is left to do; a torn file, and one of another mask, are made again.
    shutil.copy(SLIDE, slides / "data/3A_3/3A_3_HE.tif")
    (slides / "features/features/3A_2_HE.h5").write_bytes(b"torn")
    (slides / "data/3A_1/3A_1_HE_mask.tif").unlink()
    extract_cohort(slides, None, Extraction(SETTINGS), LocalExecutor(CPU))
    second = _extracted(slides)
    assert {name for name in second if second[name] != first.get(name)} == {"3A_1_HE.h5", "3A_2_HE.h5", "3A_3_HE.h5"}
    assert "4 slides, 1 already extracted" in capsys.readouterr().out
    states = [record["state"] for record in json.loads((slides / "extract.json").read_text())["slides"]]
    assert states == ["extracted", "extracted", "already extracted", "extracted"]

    # What was written is a cohort's: one bag of two slides, the same features as one slide alone gives.
    for name in ("3A_1", "3A_2", "3A_3"):
        _part(slides, name, "CD").write_text(json.dumps({"progression": 1, TIME: 7}))
    found = read_cohort(slides, tmp_path / "cache", modalities=("slide",))
    one, two, three = found.bags
    assert found.encoder == "efficientnet-lite0" and two.tiles == 2 * three.tiles
    assert torch.equal(two.rows(), torch.cat([three.rows(), three.rows()])) and torch.equal(one.rows(), three.rows())


def test_other_settings_are_extracted_again(slides, monkeypatch, tmp_path):
    shutil.rmtree(slides / "data/3A_3")
    made = []
    real = slide_extract.extract
    monkeypatch.setattr(slide_extract, "extract", lambda path, *rest: made.append(path.stem) or real(path, *rest))
    shutil.rmtree(slides / "data/3A_2")
    weights = embedded_weights(ENCODERS["efficientnet-lite0"])
    for settings, given in (
        (SETTINGS, None),
        (SETTINGS, None),
        (SlideSettings("efficientnet-lite0", 1280, mpp=2.0, min_coverage=0.4), None),
        (SlideSettings("efficientnet-lite0", 1280, mpp=4.0, min_coverage=0.3), None),
        (
            SlideSettings("efficientnet-lite0", 1280, mpp=4.0, min_coverage=0.3, assumed_mpp=0.3),
            None,
        ),  # the slide states its own
        (SlideSettings("efficientnet-lite0", 1280, mpp=4.0, min_coverage=0.3), weights),
    ):
        extract_cohort(slides, tmp_path / "out", Extraction(settings, given), LocalExecutor(CPU))
    assert len(made) == 4 and not (slides / "features").exists()
    assert len(_extracted(tmp_path / "out")) == 1


def test_files_that_do_not_belong_together_are_reported(slides):
    data = slides / "data"
    shutil.copy(SLIDE, data / "3A_1/3A_2_HE_3.tif")
    (data / "3A_1/3A_1_HE_mask.tif").rename(data / "3A_1/3A_3_HE_mask.tif")
    (data / "3A_2/3A_2_HE_4_mask.mha").touch()
    (data / "3A_2/3A_2_HE.svs").touch()
    (data / "3A_3/3A_3_HE_mask.tif").touch()
    (data / "3A_3/3A_3_HE_mask.mha").touch()
    found, failures = find_slides(slides)
    assert [slide.path.name for slide in found] == ["3A_1_HE.tif", "3A_2_HE_2.tif"]
    assert {failure.name: failure.cause.split()[0:3] for failure in failures} == {
        "3A_1/3A_2_HE_3.tif": ["is", "not", "named"],
        "3A_1/3A_3_HE_mask.tif": ["is", "not", "named"],
        "3A_2/3A_2_HE.svs": ["there", "is", "another"],
        "3A_2/3A_2_HE.tif": ["there", "is", "another"],
        "3A_2/3A_2_HE_4_mask.mha": ["is", "a", "mask"],
        "3A_3/3A_3_HE.tif": ["has", "2", "masks:"],
    }


def test_what_ails_the_machine_or_the_encoder_ends_the_run(slides, monkeypatch, tmp_path):
    def fails(*_):
        raise EnvironmentFailure("the GPU failed")

    (tmp_path / "bad.pt").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"bad\.pt: cannot be read"):
        extract_cohort(slides, None, Extraction(SETTINGS, tmp_path / "bad.pt"), LocalExecutor(CPU))
    with pytest.raises(InputError, match="no such weight file"):
        extract_cohort(slides, None, Extraction(SETTINGS, tmp_path / "none.pt"), LocalExecutor(CPU))
    with pytest.raises(InputError, match="expected slides"):
        extract_cohort(tmp_path, None, Extraction(SETTINGS), LocalExecutor(CPU))
    monkeypatch.setattr(slide_extract, "extract", fails)
    with pytest.raises(EnvironmentFailure):
        extract_cohort(slides, None, Extraction(SETTINGS), LocalExecutor(CPU))
    assert not _extracted(slides)


def _part(root: Path, name: str, part: str) -> Path:
    return root / "data" / name / f"{name}_{part}.json"


def test_a_whole_bag_keeps_the_half_precision_that_every_slide_has():
    half, single = torch.randn(3, 4).half(), torch.randn(2, 4)
    assert Bag([half]).whole().dtype == torch.float16 and torch.equal(Bag([half, half]).whole(), torch.cat([half] * 2))
    assert torch.equal(Bag([half, single]).whole(), torch.cat([half.float(), single]))
    bfloat = half.bfloat16()
    assert torch.equal(Bag([half, bfloat]).whole().float(), torch.cat([half.float(), bfloat.float()]))
