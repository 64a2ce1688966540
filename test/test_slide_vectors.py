"""Slide-level vectors as a modality of their own, from a cohort's files to an explained prediction."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import edit_json, run_job
from sklearn.decomposition import PCA
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from table_writers import clinical_rows, patients_of, write_rows
from test_fusion import FROZEN, State, bilinear, linear, rna_vector, slide_vector
from test_vector_files import stamp, trident

import survfuse as package
from survfuse.bundle.load import load, load_members
from survfuse.bundle.training_patients import vector_digest
from survfuse.cli.main import main as survfuse
from survfuse.cohort.read import read_cohort
from survfuse.cohort.table_paths import CohortTables
from survfuse.explanation.member_parts import Point, member_parts
from survfuse.inputs.slide_vectors import read_vector, write_vector
from survfuse.networks.build import build
from survfuse.networks.ensemble import Ensemble
from survfuse.networks.families import families_of, family_number
from survfuse.networks.sizes import Sizes, default_pairs
from survfuse.runtime.errors import BundleError, InputError
from survfuse.tasks.modalities import all_combinations, combination_name
from survfuse.tasks.registry import DEFAULT, WITH_VECTORS
from survfuse.training.protocol import Protocol
from survfuse.training.training_data import training_data

MODALITIES = ("slide", "vector", "rna", "clinical")
FAMILIES = families_of(MODALITIES)
LENGTH = 32
WIDE = Sizes(
    **{**vars(FROZEN), "pairs": (6, 4, 3, 5, 2, 7), "vector": 14, "vector_components": 10, "vector_layers": (9, 6)}
)
TINY = ["--folds=2", "--inner=2", "--epochs=3", "--draws=10"]
WIDTHS = ["--bag=8", "--attention=4", "--rna", "8", "6", "--rank=4", "--clusters=3", "--vector-layers", "5"]


@pytest.fixture(scope="module")
def vectors(tmp_path_factory) -> Path:
    """The patients of the session's cohort, with slide-level vectors."""
    root = tmp_path_factory.mktemp("vectors") / "simulated"
    patients = ["--patients=60", "--seed=5", "--genes=24", "--tiles=6"]
    assert survfuse(["simulate", str(root), *patients, f"--vector-length={LENGTH}"]) == 0
    return root


@pytest.fixture(scope="module")
def tables(vectors, tmp_path_factory) -> dict[str, Path]:
    """Its vectors, clinical variables and outcomes as tables."""
    folder = tmp_path_factory.mktemp("tables")
    shutil.copy(vectors / "simulation.json", folder)
    files = [[name, str(vectors / f"features/slide_vectors/{name}_HE.h5")] for name in patients_of(vectors)]
    return {
        "--vectors": write_rows(folder / "vectors.csv", [["patient", "file"], *files]),
        "--clinical": write_rows(folder / "clinical.csv", clinical_rows(patients_of(vectors))),
        "--outcomes": vectors / "outcomes.csv",
    }


@pytest.fixture(scope="module")
def small(vectors, tmp_path_factory) -> Path:
    """A stack trained on vectors and clinical variables, from the cohort's folder."""
    root = tmp_path_factory.mktemp("small") / "bundle"
    assert survfuse(["train", str(vectors), "--modalities", "vector", "clinical", "--out", str(root), *TINY]) == 0
    return root


@pytest.fixture(scope="module")
def whole(vectors, tmp_path_factory) -> Path:
    """Bilinear networks of all four modalities."""
    root = tmp_path_factory.mktemp("whole") / "bundle"
    assert survfuse(["train", str(vectors), "--fusion=bilinear", "--out", str(root), *TINY, *WIDTHS]) == 0
    return root


def options(tables: dict[str, Path], *names: str) -> list[str]:
    return [part for name in names for part in (name, str(tables[name]))]


def predicted(*arguments: str, out: Path) -> list[dict[str, str]]:
    assert survfuse(["predict", *arguments, "--out", str(out)]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


# Networks


def filled(family: str, seed: int, sizes: Sizes = WIDE) -> torch.nn.Module:
    random = torch.Generator().manual_seed(seed)
    made = build(FAMILIES[family], sizes)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=random))
    return made.double().eval()


def drawn(seed: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = {"slide": (17, WIDE.tile), "vector": (WIDE.vector,), "rna": (WIDE.genes,), "clinical": (WIDE.clinical,)}
    return {name: torch.randn(shape, generator=random).double() for name, shape in shapes.items()}


def risk_of(network: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    tiles, vector, rna, clinical = (inputs[name][None] if name in inputs else None for name in MODALITIES)
    with torch.no_grad():
        return network(tiles, rna, clinical, vector=vector)


def written_out(family: str, state: State, inputs: dict[str, np.ndarray]) -> float:
    """The risk by the formulas, for families that fuse two modalities or more in pairs, or add them up."""
    own = FAMILIES[family].modalities
    mapped = {"rna": linear(state, "expression", inputs["rna"]) if "rna" in own else None}
    mapped["clinical"] = linear(state, "variables", inputs["clinical"]) if "clinical" in own else None
    v = linear(state, "vector_axes", inputs["vector"])
    w, b = state["risk.weight"][0], state["risk.bias"][0]
    if FAMILIES[family].linear:
        return w @ np.concatenate([v if name == "vector" else mapped[name] for name in own]) + b
    for layer in range(2):
        v = np.maximum(linear(state, f"vector.layers.{layer}", v), 0.0)
    vectors = {"vector": v, "clinical": mapped["clinical"]}
    if "slide" in own:
        vectors["slide"] = slide_vector(state, inputs["slide"])[0]
    if "rna" in own:
        vectors["rna"] = rna_vector(state, mapped["rna"])
    if FAMILIES[family].fusion == "concat":
        return w @ np.concatenate([vectors[name] for name in own]) + b
    pairs = [(one, other) for place, one in enumerate(own) for other in own[place + 1 :]]
    return w @ np.concatenate([bilinear(state, f"{a}_{z}", vectors[a], vectors[z]) for a, z in pairs]) + b


@pytest.mark.parametrize(
    "family", ["bilinear", "concat", "vector", "vector+clinical", "slide+vector", "cox-vector", "cox-vector+clinical"]
)
def test_networks_over_vectors_follow_the_formulas(family):
    made, inputs = filled(family, 3), drawn(4)
    state = {name: tensor.numpy() for name, tensor in made.state_dict().items()}
    found = risk_of(made, inputs)
    expected = written_out(family, state, {name: value.numpy() for name, value in inputs.items()})
    assert found.risk.item() == pytest.approx(expected, rel=1e-9)
    assert (found.terms.sum() + found.bias).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_depends_on_its_modalities_and_no_other_and_stands_in_for_each(family):
    made, inputs = filled(family, 5), drawn(6)
    before = risk_of(made, inputs).risk.item()
    for name, other in drawn(7).items():
        changed = risk_of(made, inputs | {name: inputs[name] + 3.0 * other}).risk.item()
        assert (changed != before) == (name in made.modalities)
    for combination in all_combinations(made.modalities):
        given = {name: value for name, value in inputs.items() if name in combination}
        available = torch.tensor([[name in combination for name in MODALITIES]])
        tiles, vector, rna, clinical = (inputs[name][None] for name in MODALITIES)
        with torch.no_grad():
            masked = made(tiles, rna, clinical, None, available, vector=vector).risk.item()
        assert risk_of(made, given).risk.item() == pytest.approx(masked, rel=1e-9)


@pytest.mark.parametrize("family", ["bilinear", "tensor", "cox", "vector+clinical", "vector"])
def test_a_vectors_part_is_what_it_changes_in_the_reference_patient(family):
    sizes = Sizes(**{**vars(WIDE), "embedding": 2})
    made, ends, starts = filled(family, 8, sizes), drawn(9), drawn(10)
    slides = [None, None]
    if "slide" in made.modalities:
        slides = [made._encode_slide(one["slide"][None], None, None)[0][0].detach() for one in (ends, starts)]
    case, reference = (
        Point(slide, one["rna"], one["clinical"], one["vector"])
        for slide, one in zip(slides, (ends, starts), strict=True)
    )
    parts = member_parts(made, case, reference, 1e-6)
    base, changed, whole = (
        risk_of(made, one).risk.item() for one in (starts, starts | {"vector": ends["vector"]}, ends)
    )
    assert parts.vector == pytest.approx(changed - base, rel=1e-9, abs=1e-9 * abs(base))
    own = [part.sum().item() for part in (parts.genes, parts.columns) if part is not None]
    if parts.slope is not None:
        own.append((parts.slope @ (slides[0] - slides[1])).item())
    total = parts.baseline + parts.vector + sum(own) + sum(parts.joint.values())
    assert total == pytest.approx(whole, abs=1e-3 * max(1.0, abs(whole)))


def test_a_task_without_vectors_is_as_it_was():
    assert DEFAULT.modalities == ("slide", "rna", "clinical") and WITH_VECTORS.modalities == MODALITIES
    assert WITH_VECTORS.with_vectors() == WITH_VECTORS and WITH_VECTORS.without_vectors() == DEFAULT
    assert WITH_VECTORS.with_vectors(slides=False).modalities == ("vector", "rna", "clinical")
    kept = Sizes().to_json()
    assert not any(name.startswith("vector") for name in kept) and kept["pairs"] == [64, 32, 32]
    assert Sizes.from_json(kept) == Sizes() and Sizes.from_json(WIDE.to_json()) == WIDE
    for given in ((1, 2, 3), (64, 32, 32)):  # those of the default, given by hand, as well
        assert Sizes(pairs=given).for_modalities(MODALITIES).pairs == given
    assert Sizes().for_modalities(MODALITIES).pairs == default_pairs(MODALITIES)


# Cohorts


def test_a_folder_and_tables_give_the_same_vectors_and_several_slides_their_mean(vectors, tables, tmp_path):
    folder = read_cohort(vectors, tmp_path / "a")
    given = CohortTables(vectors=tables["--vectors"], clinical=tables["--clinical"])
    other = read_cohort(given, tmp_path / "b", tables["--outcomes"])
    paths = [vectors / f"features/slide_vectors/{name}_HE.h5" for name in folder.ids]
    expected = np.stack([read_vector(path).values for path in paths])
    assert np.array_equal(folder.vectors, expected) and np.array_equal(other.vectors, expected)
    assert {folder.vector_settings.encoder, other.vector_settings.encoder} == {"simulated"}
    assert folder.task == WITH_VECTORS and folder.bags is not None and other.bags is None
    without = read_cohort(vectors, tmp_path / "a", modalities=["rna", "clinical"])
    assert without.vectors is None and without.task == DEFAULT

    second = tmp_path / "second.h5"
    write_vector(second, np.full(LENGTH, 3.0), "simulated")
    rows = [*csv.reader(tables["--vectors"].open()), [folder.ids[0], str(second)]]
    several = CohortTables(vectors=write_rows(tmp_path / "several.csv", rows), clinical=tables["--clinical"])
    found = read_cohort(several, tmp_path / "b", tables["--outcomes"]).vectors
    assert found[0] == pytest.approx((expected[0].astype(np.float64) + 3.0) / 2.0, rel=1e-6)
    assert np.array_equal(found[1:], expected[1:])


def test_a_folder_of_vectors_may_name_them_by_patient(vectors, tmp_path):
    root = tmp_path / "cohort"
    shutil.copytree(vectors, root)
    for path in (root / "features/slide_vectors").iterdir():
        path.rename(path.with_name(path.name.replace("_HE", "")))
    found = read_cohort(root, tmp_path / "c", modalities=["vector"])
    assert np.array_equal(found.vectors, read_cohort(vectors, tmp_path / "c", modalities=["vector"]).vectors)


def test_what_is_wrong_with_vectors_is_named_by_patient(vectors, tables, tmp_path):
    root = tmp_path / "cohort"
    shutil.copytree(vectors, root)
    files = root / "features/slide_vectors"
    (files / "3S_01_HE.h5").unlink()
    (files / "3S_02_HE.h5").write_text("")
    write_vector(files / "3S_03_HE.h5", np.ones(16), "simulated")
    write_vector(files / "3S_04_HE.h5", np.ones(LENGTH), "titan")
    write_vector(files / "stranger.h5", np.ones(LENGTH), "simulated")
    with pytest.raises(InputError) as error:
        read_cohort(root, tmp_path / "c", modalities=["vector"])
    assert "3S_01: no slide-level vector 3S_01.h5, .hdf5 or .pt in features/slide_vectors" in str(error.value)
    assert "features/slide_vectors: 1 file (stranger.h5) of no patient; expected <id> or <id>_HE*" in str(error.value)
    (files / "stranger.h5").unlink()
    write_vector(files / "3S_01_HE.h5", np.ones(LENGTH), "simulated")
    with pytest.raises(InputError) as error:
        read_cohort(root, tmp_path / "c", modalities=["vector"])
    assert "3S_02_HE.h5: cannot be read as HDF5" in str(error.value)
    assert "slide-level vectors of length 32 in 58 patients, but 16 in 3S_03" in str(error.value)
    assert "slide-level vectors of encoder simulated in 58 patients, but titan in 3S_04" in str(error.value)

    shutil.rmtree(files)
    with pytest.raises(InputError, match="no slide-level vectors: expected a folder features/slide_vectors"):
        read_cohort(root, tmp_path / "c", modalities=["vector"])
    slides = write_rows(tmp_path / "slides.csv", [["patient", "file"], ["3S_01", str(root / "outcomes.csv")]])
    with pytest.raises(InputError, match=r"outcomes\.csv is no slide-level vector \(expected \.h5, \.hdf5, \.pt\)"):
        read_cohort(CohortTables(vectors=slides), tmp_path / "c", tables["--outcomes"])


def test_a_patients_vector_is_of_all_slides_or_the_mean_of_each(vectors, tables, tmp_path, capsys):
    root = tmp_path / "cohort"
    shutil.copytree(vectors, root)
    files = root / "features/slide_vectors"
    shutil.copy(files / "3S_02_HE.h5", files / "3S_02.h5")
    with pytest.raises(InputError, match=r"3S_02: both 3S_02\.h5, of all slides, and 3S_02_HE\*; expected one"):
        read_cohort(root, tmp_path / "c", modalities=["vector"])
    trident(tmp_path / "empty.h5", np.empty(0, dtype=np.float32), 0)
    stamp(tmp_path / "whole.h5", "patient", np.ones(LENGTH, dtype=np.float32), "simulated")

    def with_one_more(name: str) -> CohortTables:
        rows = [*csv.reader(tables["--vectors"].open()), ["3S_01", str(tmp_path / name)]]
        return CohortTables(vectors=write_rows(tmp_path / "more.csv", rows), clinical=tables["--clinical"])

    found = read_cohort(with_one_more("empty.h5"), tmp_path / "c", tables["--outcomes"])
    assert np.array_equal(found.vectors, read_cohort(vectors, tmp_path / "c", modalities=["vector"]).vectors)
    assert "warning: left out: empty.h5: empty; TRIDENT writes" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"whole\.h5 is of all of the patient's slides, beside 1 other vector"):
        read_cohort(with_one_more("whole.h5"), tmp_path / "c", tables["--outcomes"])
    numbers = write_rows(tmp_path / "numbers.csv", [["patient", "f0", "f1"], ["3S_01", 0.5, 0.25]])
    with pytest.raises(InputError, match=r"is missing .*; vectors are read from files, their numbers not from columns"):
        read_cohort(CohortTables(vectors=numbers), tmp_path / "c", tables["--outcomes"])


# Training


def test_tables_train_the_bundle_that_the_folder_trains(tables, small, tmp_path):
    arguments = options(tables, "--vectors", "--clinical", "--outcomes")
    assert survfuse(["train", *arguments, "--out", str(tmp_path / "bundle"), *TINY]) == 0
    manifests = [json.loads((root / "manifest.json").read_text()) for root in (small, tmp_path / "bundle")]
    assert manifests[0]["files"] == manifests[1]["files"]
    assert manifests[0]["members"] == manifests[1]["members"]
    assert manifests[0]["vector"] == {"encoder": "simulated", "dimension": LENGTH, "with_slides": False}
    families = {entry["family"] for entry in manifests[0]["members"]}
    assert families <= {"clinical", "cox-vector", "cox-vector+clinical", "vector+clinical"} and len(families) > 1


def test_a_linear_model_of_vectors_is_ridge_cox_on_the_numbers_themselves(vectors, tmp_path):
    """Principal axes only turn the numbers: with all of them, scikit-survival's fit on the numbers ranks alike."""
    patients = read_cohort(vectors, tmp_path / "c", modalities=["vector"])
    data = training_data(patients, Protocol(fusion="cox-vector", folds=2, inner=2), Sizes())
    out = tmp_path / "bundle"
    one = ["--modalities", "vector", "--fusion=cox-vector", "--out", str(out)]
    assert survfuse(["train", str(vectors), *one, *TINY]) == 0
    members = load_members(load(out))
    assert len(members) == len(data.splits) and data.sizes.vector_components < LENGTH
    everything = torch.from_numpy(patients.vectors).float()
    for member, split in zip(members, sorted(data.splits, key=lambda each: each.name), strict=True):
        fitted = patients.vectors[split.fitted]
        standard = (patients.vectors - fitted.mean(axis=0)) / fitted.std(axis=0)
        axes = PCA().fit(standard[split.fitted])
        first = np.sqrt(axes.explained_variance_[0] * (len(fitted) - 1) / len(fitted))
        outcome = Surv.from_arrays(patients.events[split.fitted], patients.times[split.fitted])
        with torch.no_grad():
            found = build(member.family, member.sizes).eval()
            found.load_state_dict(member.state)
            risks = found(None, None, None, vector=everything).risk.double().numpy()
        apart = []
        for penalty in (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0):
            model = CoxPHSurvivalAnalysis(alpha=penalty, ties="efron").fit(standard[split.fitted] / first, outcome)
            apart.append(np.abs(standard / first @ model.coef_ - risks).max())
        assert min(apart) < 1e-3 * max(1e-3, np.abs(risks).max())


def test_vectors_in_place_of_slides_are_fused_with_all_that_there_is(vectors, tmp_path):
    out = tmp_path / "bundle"
    chosen = ["--modalities", "vector", "rna", "clinical", "--fusion=bilinear", "--out", str(out)]
    assert survfuse(["train", str(vectors), *chosen, *TINY, *WIDTHS]) == 0
    bundle = load(out)
    assert bundle.task.modalities == bundle.modalities == ("vector", "rna", "clinical")
    assert {member.family.modalities for member in load_members(bundle)} == {bundle.modalities}


def test_families_that_read_no_vectors_are_trained_as_without_them(vectors, cohort, tmp_path, capsys):
    for number, root in enumerate((vectors, cohort)):
        arguments = ["--fusion=rna+clinical", "--out", str(tmp_path / str(number)), *TINY, *WIDTHS]
        assert survfuse(["train", str(root), *arguments]) == 0
    found, expected = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in "01")
    assert found["files"] == expected["files"] and "vector" not in found
    assert "not read by --fusion rna+clinical" in capsys.readouterr().out
    model = package.load(tmp_path / "0", device="cpu")
    case = {"rna": {}, "clinical": {"age": 70}}
    assert model.predict(package.Case(vector=np.ones(3), **case)).months == model.predict(package.Case(**case)).months
    with pytest.raises(InputError, match="lacks rna, clinical; vector not used by this bundle; this bundle scores"):
        model.predict(package.Case(vector=np.ones(3)))
    numbers = [[family_number(families_of(own)[name]) for name in ("rna", "cox-slide", "slide+clinical")]
               for own in (MODALITIES, DEFAULT.modalities)]  # fmt: skip
    assert numbers[0] == numbers[1]
    assert len({family_number(family) for family in FAMILIES.values()}) == len(FAMILIES)


def test_what_cannot_be_trained_on_vectors_is_named(vectors, tables, tmp_path, capsys):
    def error(*arguments: str) -> str:
        assert survfuse(["train", *arguments, "--out", str(tmp_path / "b"), *TINY]) != 0
        assert not (tmp_path / "b").exists()
        return capsys.readouterr().err

    clinical = options(tables, "--clinical", "--outcomes")
    assert "cox-vector needs slide-level vectors, which the cohort does not have" in error(
        *clinical, "--fusion=cox-vector"
    )
    assert "no table of the modality vector" in error(*clinical, "--modalities", "vector", "clinical")
    both = options(tables, "--vectors", "--clinical", "--outcomes")
    assert "slide+vector needs slide, which the cohort does not have" in error(*both, "--fusion=slide+vector")
    assert "weights, expected at most 100,000,000" in error(str(vectors), "--fusion=tensor")
    assert "widths of pairs, found 3" in error(str(vectors), "--pairs", "4", "3", "2")
    same = tmp_path / "same"
    shutil.copytree(vectors, same)
    for path in (same / "features/slide_vectors").iterdir():
        write_vector(path, np.ones(LENGTH), "simulated")
    assert "slide-level vectors: none of their numbers differs" in error(str(same), "--modalities", "vector")


# Predictions


def test_every_way_in_scores_a_vector_alike(vectors, tables, small, tmp_path):
    rows = predicted(*options(tables, "--vectors", "--clinical"), "--model", str(small), out=tmp_path / "a.csv")
    folder = predicted(str(vectors), "--model", str(small), out=tmp_path / "b.csv")
    assert rows == folder and {row["training_patient"] for row in rows} == {"yes"}
    model = package.load(small, device="cpu")
    variables = patients_of(vectors)
    for row in rows[:3]:
        path = vectors / f"features/slide_vectors/{row['case_id']}_HE.h5"
        clinical = {name: x for name, x in variables[row["case_id"]].items() if name not in DEFAULT.outcome.keys}
        for vector in (path, read_vector(path).values, torch.from_numpy(read_vector(path).values)[None]):
            found = model.predict(package.Case(vector=vector, clinical=clinical))
            assert found.months == pytest.approx(float(row["months"]), rel=1e-6)
            assert found.combination == "vector+clinical" and found.training_patient


def test_an_ensemble_is_its_members_one_by_one_under_every_combination(vectors, whole, tmp_path):
    bundle = load(whole)
    members = load_members(bundle)
    patients = read_cohort(vectors, tmp_path / "c")
    expression = torch.from_numpy(bundle.expression.transformed(patients.expression[:1])[0]).float()
    inputs = {
        "slide": patients.bags[0].rows(None),
        "vector": torch.from_numpy(patients.vectors[0]).float(),
        "rna": expression,
        "clinical": torch.from_numpy(bundle.vocabulary.encode(patients.clinical[0]).values),
    }
    ensemble = Ensemble(members, bundle.manifest.combinations)
    assert set(bundle.manifest.combinations) == {combination_name(each) for each in all_combinations(MODALITIES)}
    for combination in all_combinations(MODALITIES):
        given = {name: value for name, value in inputs.items() if name in combination}
        scale, total = bundle.manifest.combinations[combination_name(combination)], 0.0
        for member in members:
            weight = member.standings[combination_name(combination)]
            network = build(member.family, member.sizes).eval()
            network.load_state_dict(member.state)
            total += weight.weight * (risk_of(network, given).risk.item() - weight.location) / weight.scale
        found = ensemble(given.get("slide"), given.get("rna"), given.get("clinical"), vector=given.get("vector"))
        assert found.risk == pytest.approx((total - scale.location) / scale.scale, abs=1e-5)
        assert found.baseline + sum(found.terms.values()) == pytest.approx(found.risk, abs=1e-9)


def test_a_folder_without_vectors_is_scored_without(cohort, vectors, small, tmp_path, capsys):
    rows = predicted(str(cohort), "--model", str(small), out=tmp_path / "a.csv")
    without = predicted(str(vectors), "--model", str(small), "--modalities", "clinical", out=tmp_path / "b.csv")
    assert [row["months"] for row in rows] == [row["months"] for row in without]
    assert "simulated has no folder of slide-level vectors" in capsys.readouterr().out
    assert survfuse(["predict", str(cohort), "--model", str(small), "--modalities", "vector", "--out", "x.csv"]) == 2
    assert "expected a folder features/slide_vectors; leave them out" in capsys.readouterr().err


def test_a_job_has_no_vector_and_is_scored_without(small, slide_case, tmp_path):
    job = run_job(slide_case, tmp_path / "out", small)
    assert job.returncode == 0, job.stderr
    assert "missing      vector; scored with clinical, as the bundle was trained to do" in job.stdout
    assert "vector       none given" in job.stdout


def test_a_vector_of_another_encoder_or_length_is_refused_and_one_too_many_ignored(vectors, bundle, small, tmp_path):
    model = package.load(small, device="cpu")
    write_vector(tmp_path / "titan.h5", np.ones(LENGTH), "titan")
    with pytest.raises(InputError, match=r"titan\.h5: slide-level vector of 'titan', but .* those of 'simulated'"):
        model.predict(package.Case(vector=tmp_path / "titan.h5"))
    with pytest.raises(InputError, match="slide-level vector of length 5, but the bundle takes length 32"):
        model.predict(package.Case(vector=np.ones(5)))
    with pytest.raises(InputError, match="no such file"):
        model.predict(package.Case(vector=tmp_path / "none.h5"))
    other = package.load(bundle, device="cpu")
    found = other.predict(package.Case(vector=np.ones(5), clinical={"age": 70}))
    assert ("vector", "not used by this bundle") in [(name, note.text) for name, note in found.notes]
    assert found.months == other.predict(package.Case(clinical={"age": 70})).months


def test_training_patients_are_known_by_their_vectors_alone(vectors, small, tmp_path):
    known = load(small).training_patients
    assert set(known.digests) == {"vector"} and len(known.digests["vector"]) == 60
    two = tmp_path / "cohort"
    shutil.copytree(vectors, two)
    files = two / "features/slide_vectors"
    write_vector(files / "3S_07_HE_2.h5", np.full(LENGTH, 2.0), "simulated")
    one = ["--modalities", "vector", "--fusion=cox-vector", "--out", str(tmp_path / "two")]
    assert survfuse(["train", str(two), *one, *TINY]) == 0
    both = package.load(tmp_path / "two", device="cpu")
    own = read_vector(files / "3S_07_HE.h5").values
    for each in (own, np.full(LENGTH, 2.0), (own.astype(np.float64) + 2.0) / 2.0):
        assert both.predict(package.Case(vector=each)).training_patient

    model = package.load(small, device="cpu")
    vector = read_vector(vectors / "features/slide_vectors/3S_07_HE.h5").values
    torch.save(torch.from_numpy(vector).half(), tmp_path / "copy.pt")
    assert model.predict(package.Case(vector=tmp_path / "copy.pt")).training_patient
    assert model.predict(package.Case(vector=1.01 * vector)).training_patient is False
    assert model.predict(package.Case(clinical={"age": 70})).training_patient is None
    assert vector_digest(bytes(16), vector) == vector_digest(bytes(16), np.float16(vector))
    assert vector_digest(bytes(16), -0.0 * vector) == vector_digest(bytes(16), 0.0 * vector)


def test_an_explanation_adds_up_and_gives_the_vector_one_part(vectors, small, whole, tmp_path):
    for root, kinds in ((small, {"vector", "variable"}), (whole, {"tile", "vector", "gene", "variable"})):
        model = package.load(root, device="cpu")
        patients = read_cohort(vectors, tmp_path / "c", modalities=["slide", "rna", "vector", "clinical"])
        rna = dict(zip(patients.genes, patients.expression[3].tolist(), strict=True))
        case = package.Case(
            features=patients.bags[3].rows(None), rna=rna, clinical=patients.clinical[3], vector=patients.vectors[3]
        )
        found = model.explain(case, out=tmp_path / root.parent.name)
        assert found.attribution.total == pytest.approx(found.prediction.risk, abs=1e-3)
        assert sum(found.modality_values.values()) == pytest.approx(found.prediction.risk - found.expected, abs=1e-6)
        with (tmp_path / root.parent.name / "contributions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert kinds <= {row["kind"] for row in rows}
        assert [row["name"] for row in rows if row["kind"] == "vector"] == ["slide-level vector"]
        record = json.loads((tmp_path / root.parent.name / "case.json").read_text())
        assert record["vector"]["value"] == pytest.approx(float(found.attribution.vector.values[0]))
        page = (tmp_path / root.parent.name / "case.html").read_text()
        assert "the slide-level vector of this case" in page and "without the slide-level vector" in page


def test_tables_are_explained_as_the_folder_is(vectors, tables, small, tmp_path):
    few = {}
    for name in ("--vectors", "--clinical"):
        with tables[name].open(newline="") as file:
            few[name] = write_rows(tmp_path / tables[name].name, list(csv.reader(file))[:3])
    out = tmp_path / "tables"
    assert survfuse(["explain", *options(few, *few), "--model", str(small), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["3S_01", "3S_02"]
    model = package.load(small, device="cpu")
    patients = read_cohort(vectors, tmp_path / "c", modalities=["vector", "clinical"])
    for row in range(2):
        record = json.loads((out / patients.ids[row] / "case.json").read_text())
        case = package.Case(vector=patients.vectors[row], clinical=patients.clinical[row])
        assert record["vector"]["value"] == pytest.approx(float(model.explain(case).attribution.vector.values[0]))
    inside = tmp_path / "vectors.csv"
    with pytest.raises(InputError, match=r"expected a folder apart from vectors\.csv"):
        package.explain(CohortTables(vectors=inside), tmp_path, model=small)


# Bundles


def damaged(root: Path, copy: Path, **vector: object) -> Path:
    shutil.copytree(root, copy)
    edit_json(copy / "manifest.json", vector=vector)
    return copy


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ({"dimension": 31}, "takes vector of length 32, the bundle gives 31"),
        ({"dimension": 0}, "slide-level vector: expected a dimension from 1 to 65,536"),
        ({"encoder": 3}, "slide-level vector: expected a slide encoder's name or null"),
        ({"with_slides": 1}, "slide-level vector: expected a slide encoder's name or null"),
        ({"with_slides": True}, "expected 6 widths of pairs, found 3"),
        ({"more": 1}, "does not follow schema version 3"),
    ],
)
def test_a_bundle_with_other_settings_of_vectors_is_refused(small, tmp_path, vector, message):
    with pytest.raises(BundleError, match=message):
        load(damaged(small, tmp_path / "copy", **{"encoder": None, "dimension": 32, "with_slides": False} | vector))


def test_a_bundle_that_lost_its_settings_of_vectors_is_refused(small, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small, copy)
    edit_json(copy / "manifest.json", vector=None)
    with pytest.raises(BundleError, match="'vector\\+clinical' is not a combination of modalities"):
        load(copy)
