"""The whole job as the platform runs it: what it writes, what it says, and how it ends when it cannot."""

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import (
    CASES,
    DEMONSTRATION,
    FEATURES,
    MASK,
    OUTPUT_FILE,
    PLACES,
    ROOT,
    SLIDE,
    SLUGS,
    edit_json,
    end_of,
    months,
    run_job,
)

import survfuse.container.job as job
from survfuse.cli.main import main as survfuse
from survfuse.inputs.features import read_features
from survfuse.networks.ensemble import Ensemble
from survfuse.runtime.errors import EnvironmentFailure
from survfuse.slide.extract import extract

GENES = len(json.loads((DEMONSTRATION / "genes.json").read_text())["genes"])


def give_features(case: Path, values: object, suffix: str = ".pt", **datasets: object) -> None:
    folder = case / PLACES["slide"]
    for path in folder.iterdir():
        path.unlink()
    if suffix == ".pt":
        torch.save(values, folder / "x.pt")
        return
    with h5py.File(folder / "x.h5", "w") as file:
        for name, data in (datasets | {"features": values}).items():
            file[name] = data


Ended = tuple[subprocess.CompletedProcess[str], Path]


@pytest.fixture(scope="module")
def slide_job(tmp_path_factory) -> Ended:
    """How a fresh process with the case that has a slide ended, and its output."""
    output = tmp_path_factory.mktemp("job") / "output"
    return run_job(CASES / "interf0", output), output


@pytest.mark.parametrize("name", ["interf0", "interf1"])
def test_sample_cases_give_their_snapshots(name, slide_job, output):
    """Regression snapshots; a fresh process, with nothing on stderr and one file written."""
    ended, output = slide_job if name == "interf0" else (run_job(CASES / name, output), output)
    assert (ended.returncode, ended.stderr) == (0, "")
    expected = json.loads((ROOT / "test/expected" / name / OUTPUT_FILE).read_text())
    members = len(json.loads((DEMONSTRATION / "manifest.json").read_text())["members"])
    assert months(output) == pytest.approx(expected, rel=1e-3)
    for part in (
        "DEMONSTRATION WEIGHTS",
        "nothing clinically",
        f"{GENES} genes of {GENES}",
        f"{members} members",
        "CPU",
        "months",
    ):
        assert part in ended.stdout
    assert ("11 tiles kept of 35" in ended.stdout) == (name == "interf0")
    assert all(line.startswith("[") and " s] " in line[:14] for line in ended.stdout.splitlines())
    # The survival curve of complete cases, at the risk that the log states.
    risk = float(re.search(r"risk +(\S+) = ", ended.stdout).group(1))
    curve = json.loads((DEMONSTRATION / "survival.json").read_text())["slide+rna+clinical"]
    for month in (12, 24, 60):
        hazard = max(h for h, time in zip(curve["hazard"], curve["times"], strict=True) if time <= month)
        share = math.exp(-hazard * math.exp(curve["coefficient"] * (risk - curve["centre"])))
        stated = float(re.search(rf"(\S+)% at {month} months", ended.stdout).group(1))
        assert stated == pytest.approx(100.0 * share, abs=0.06)


def test_the_same_input_gives_the_same_bytes(slide_job, tmp_path):
    assert slide_job[0].returncode == run_job(CASES / "interf0", tmp_path / "again").returncode == 0
    assert (slide_job[1] / OUTPUT_FILE).read_bytes() == (tmp_path / "again" / OUTPUT_FILE).read_bytes()


def test_given_features_predict_what_their_slide_does(tmp_path, output):
    """Extracted first or on the way, one slide gives one number."""
    given = Path(shutil.copytree(CASES / "interf0", tmp_path / "given"))
    (given / PLACES["slide"] / SLIDE.name).unlink()
    out = given / PLACES["slide"] / "3S_001_HE.h5"
    assert survfuse(["extract", str(SLIDE), "--mask", str(MASK), "--out", str(out)]) == 0
    assert end_of(given, output) == 0
    expected = json.loads((ROOT / "test/expected/interf0" / OUTPUT_FILE).read_text())
    assert months(output) == pytest.approx(expected, rel=1e-3)


def test_extracted_features_open_as_clam_and_trident_open_theirs(tmp_path):
    assert survfuse(["extract", str(SLIDE), "--mask", str(MASK), "--out", str(tmp_path / "f.h5")]) == 0
    with h5py.File(tmp_path / "f.h5", "r") as file:
        features, coords = file["features"][:], file["coords"][:]  # CLAM
        attributes, encoder = dict(file["coords"].attrs), file["features"].attrs["encoder"]  # TRIDENT
    assert features.shape == (11, 1280) and features.dtype == np.float32 and coords.shape == (11, 2)
    starts = [round(place * 224 * 1.0 / 0.499) for place in range(7)]
    assert set(coords[:, 0]) <= set(starts[:5]) and set(coords[:, 1]) <= set(starts)
    assert (attributes["patch_size"], attributes["patch_size_level0"], attributes["overlap"]) == (224, 449, 0)
    assert attributes["target_magnification"] == 10.0 and attributes["name"] == "3S_001_HE"
    assert attributes["level0_magnification"] == pytest.approx(20, abs=0.1)
    assert encoder == "efficientnet-lite0"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5"]


def test_the_features_route_imports_nothing_that_only_slides_or_training_need(output):
    script = (
        "import sys; from survfuse.container.job import main; code = main(sys.argv[1:]);"
        "heavy = {'timm', 'torchvision', 'openslide', 'PIL', 'SimpleITK', 'tifffile', 'pandas', 'scipy', 'sklearn',"
        " 'lifelines', 'sksurv', 'matplotlib', 'sympy', 'torch._dynamo'};"
        "print('imported:', sorted(heavy & set(sys.modules))); sys.exit(code)"
    )
    command = [sys.executable, "-c", script, "--input", str(CASES / "interf1"), "--output", str(output)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ended.returncode == 0
    assert "imported: []" in ended.stdout


def test_newer_platforms_say_socket(case, output):
    entries = json.loads((case / "inputs.json").read_text())
    (case / "inputs.json").write_text(json.dumps([{"socket": entry.pop("interface"), **entry} for entry in entries]))
    assert end_of(case, output) == 0


def test_a_platform_that_says_both_is_understood(case, output):
    entries = json.loads((case / "inputs.json").read_text())
    for others in ({"title": "in other words"}, {"relative_path": None}):
        both = [{**entry, "socket": entry["interface"] | others} for entry in entries]
        (case / "inputs.json").write_text(json.dumps(both))
        assert end_of(case, output) == 0


def test_sockets_lie_where_the_job_says(case, output, capsys):
    entries = json.loads((case / "inputs.json").read_text())
    for entry in entries:
        if entry["interface"]["slug"] == SLUGS["rna"]:
            entry["interface"]["relative_path"] = "elsewhere/rna.json"
    (case / "inputs.json").write_text(json.dumps(entries))
    (case / "elsewhere").mkdir()
    (case / PLACES["rna"]).rename(case / "elsewhere/rna.json")
    assert end_of(case, output) == 0
    assert "sockets from inputs.json" in capsys.readouterr().out


def test_without_inputs_json_the_files_decide_and_the_log_says_so(case, output, capsys):
    (case / "inputs.json").unlink()
    assert end_of(case, output) == 0
    assert "the files present (no inputs.json)" in capsys.readouterr().out


def test_a_slide_without_mask_is_searched_for_tissue(tmp_path, output, capsys):
    root = Path(shutil.copytree(CASES / "interf0", tmp_path / "input"))
    shutil.rmtree(root / PLACES["mask"])
    entries = json.loads((root / "inputs.json").read_text())
    entries = [entry for entry in entries if entry["interface"]["slug"] != SLUGS["mask"]]
    (root / "inputs.json").write_text(json.dumps(entries))
    assert end_of(root, output) == 0
    assert "10 tiles kept of 35; no mask given; tissue found by saturation" in capsys.readouterr().out


def test_an_unknown_set_of_sockets_lists_what_was_expected_and_what_came(case, output, capsys):
    entries = json.loads((case / "inputs.json").read_text())
    other = {"interface": {"slug": "ct-image", "relative_path": "images/ct"}}
    (case / "inputs.json").write_text(json.dumps([*entries[:1], other]))
    assert end_of(case, output) == 2
    message = capsys.readouterr().err
    assert all(
        part in message for part in (SLUGS["mask"], SLUGS["rna"], SLUGS["clinical"], "ct-image", "expected", "found")
    )
    assert message.count("\n") == 1


def text(place: str, content: str):
    return lambda case: (case / place).write_text(content)


BAG = torch.rand(6, 1280)
INPUT_FAULTS = {
    "a folder as expression": (
        lambda case: [(case / PLACES["rna"]).unlink(), (case / PLACES["rna"]).mkdir()],
        "expected a file, found a folder",
    ),
    "nothing at all": (lambda case: [shutil.rmtree(case), case.mkdir()], "unknown set of sockets"),
    "no folder": (shutil.rmtree, "no such folder"),
    "sockets not a list": (text("inputs.json", "{}"), "expected an array"),
    "two sockets in one": (
        text("inputs.json", '[{"interface": {"slug": "a"}, "socket": {"slug": "b"}}]'),
        "'interface' and 'socket' of entry 0 are not the same",
    ),
    "socket without slug": (text("inputs.json", "[{}]"), "entry 0 has no"),
    "path outside": (
        text("inputs.json", json.dumps([{"interface": {"slug": SLUGS["rna"], "relative_path": "../x"}}])),
        "leads outside",
    ),
    "expression not JSON": (text(PLACES["rna"], "{"), "not valid JSON"),
    "expression a list": (text(PLACES["rna"], "[1]"), "expected one JSON object, found an array"),
    "expression nested deep": (text(PLACES["rna"], "[" * 100_000), "not usable JSON"),
    "expression twice": (text(PLACES["rna"], '{"TP53": 1, "TP53": 2}'), "'TP53' occurs more than once"),
    "expression NaN": (lambda case: edit_json(case / PLACES["rna"], TP53=float("nan")), "'TP53'"),
    "expression of others": (
        text(PLACES["rna"], '{"TP53": 1}'),
        f"{GENES - 1} of the bundle's {GENES} genes are missing",
    ),
    "age implausible": (lambda case: edit_json(case / PLACES["clinical"], age=400), "age: out of its plausible range"),
    "two slides": (
        lambda case: shutil.copy(FEATURES, case / PLACES["slide"] / "second.h5"),
        "expected one file in",
    ),
    "features of another length": (
        lambda case: give_features(case, BAG[:, :1024]),
        "but the bundle takes length 1280 (efficientnet-lite0)",
    ),
    "features NaN": (
        lambda case: give_features(case, BAG.clone().index_fill_(0, torch.tensor(3), torch.nan)),
        "tile 3",
    ),
    "no tiles": (lambda case: give_features(case, BAG[:0]), "holds no tiles"),
    "features a list": (lambda case: give_features(case, [1, 2]), "expected a tensor, found list"),
    "HDF5 empty": (lambda case: give_features(case, h5py.Empty("f4"), ".h5"), "dataset 'features'"),
    "HDF5 beyond float32": (
        lambda case: give_features(case, np.full((3, 1280), 1e300), ".h5"),
        "tile 0 are NaN or infinite",
    ),
    "features sparse": (lambda case: give_features(case, BAG.to_sparse()), "expected a dense tensor"),
    "features whole numbers": (lambda case: give_features(case, BAG.long()), "floating-point"),
    "features four-dimensional": (lambda case: give_features(case, BAG[None, None]), r"[N, D]"),
    "HDF5 without features": (lambda case: give_features(case, BAG.int().numpy(), ".h5"), "dataset 'features'"),
    "HDF5 with other coords": (
        lambda case: give_features(case, BAG.numpy(), ".h5", coords=np.zeros((5, 2))),
        "coords of shape",
    ),
    "HDF5 torn": (
        lambda case: (case / PLACES["slide"] / FEATURES.name).write_bytes(FEATURES.read_bytes()[:999]),
        "cannot be read as HDF5",
    ),
}


@pytest.mark.parametrize("fault", INPUT_FAULTS)
def test_unusable_input_ends_in_one_named_line_and_no_output(case, output, capsys, fault):
    change, message = INPUT_FAULTS[fault]
    change(case)
    assert end_of(case, output) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("survfuse: InputError: ") and message in lines[0]


def test_features_of_a_named_other_encoder_are_refused(case, output, capsys):
    with h5py.File(case / PLACES["slide"] / FEATURES.name, "a") as file:
        file["features"].attrs["encoder"] = "uni_v1"
    assert end_of(case, output) == 2
    assert "features of 'uni_v1', but the bundle takes those of 'efficientnet-lite0'" in capsys.readouterr().err


def test_an_encoder_may_be_named_in_bytes(case, output):
    with h5py.File(case / PLACES["slide"] / FEATURES.name, "a") as file:
        file["features"].attrs["encoder"] = np.bytes_("efficientnet-lite0")
    assert end_of(case, output) == 0


def test_other_embedded_weights_than_the_bundles_are_refused(output, tmp_path, capsys):
    other = Path(shutil.copytree(DEMONSTRATION, tmp_path / "other"))
    manifest = json.loads((other / "manifest.json").read_text())
    assert len(manifest["slide"]["embedded_sha256"]) == 64
    manifest["slide"]["embedded_sha256"] = "0" * 64
    edit_json(other / "manifest.json", **manifest)
    assert end_of(CASES / "interf0", output, other) == 3
    assert "embedded weights are not those" in capsys.readouterr().err


@pytest.mark.parametrize(
    "raised", [EnvironmentFailure("ended by SIGTERM"), MemoryError(), OSError(errno.EIO, "I/O error")], ids=repr
)
def test_a_machine_that_fails_while_reading_is_not_the_inputs_fault(case, output, monkeypatch, raised):
    def fail(*_, **__):
        raise raised

    give_features(case, BAG)
    monkeypatch.setattr(torch, "load", fail)
    monkeypatch.setattr(
        "survfuse.runtime.torch_files.available_memory", lambda: 0
    )  # else it is the file that asks for too much
    assert end_of(case, output) == 4


@pytest.mark.parametrize("raised", [EnvironmentFailure("ended by SIGTERM"), OSError(errno.ENOSPC, "full"), KeyError()])
def test_a_failure_after_the_number_is_written_takes_it_back(case, output, monkeypatch, raised):
    """The log's disk full, a signal: the platform uploads nothing of a failed job, and nobody else may take it."""
    seen = []

    def fail() -> str:
        seen.extend(output.iterdir())
        raise raised

    monkeypatch.setattr(job, "peak_memory", fail)
    assert end_of(case, output) in (1, 4)
    assert [path.name for path in seen] == [OUTPUT_FILE]


def test_networks_run_on_the_device_that_was_chosen(output, monkeypatch):
    """Encoder and ensemble are both given it."""
    used = []

    class Recorded(Ensemble):
        def __init__(self, members, scored, device):
            used.append(device)
            super().__init__(members, scored)

    monkeypatch.setattr("survfuse.runtime.device.chosen_device", lambda _: torch.device("meta"))
    monkeypatch.setattr("survfuse.networks.ensemble.Ensemble", Recorded)
    monkeypatch.setattr(
        "survfuse.slide.extract.extract",
        lambda *given, **_: used.append(given[4]) or extract(*given[:4], torch.device("cpu"), *given[5:]),
    )
    monkeypatch.setattr("survfuse.prediction.predictor.device_name", str)
    assert end_of(CASES / "interf0", output) == 0
    assert used == [torch.device("meta")] * 2


def test_every_layout_of_the_same_features_gives_the_same_months(case, tmp_path):
    values = read_features(FEATURES).values
    layouts = [(values, ".pt"), (values.double(), ".pt"), (values[None], ".pt")]
    layouts += [(values.numpy(), ".h5"), (values.numpy()[None], ".h5")]
    found = set()
    for number, (stored, suffix) in enumerate(layouts):
        give_features(case, stored, suffix)
        assert end_of(case, tmp_path / str(number)) == 0
        found.add(months(tmp_path / str(number)))
    assert len(found) == 1


def test_missing_values_are_said_and_the_run_goes_on(case, output, capsys):
    expression = json.loads((case / PLACES["rna"]).read_text())
    del expression["TP53"], expression["MYC"]
    (case / PLACES["rna"]).write_text(json.dumps(expression | {"NOVEL": 3.0}))
    edit_json(case / PLACES["clinical"], age=-1, stage="T4", extra="x")
    assert end_of(case, output) == 0
    log = capsys.readouterr().out
    read = f"{GENES - 2} genes of {GENES}"
    for part in (read, "2 missing genes imputed", "extra genes ignored", "unknown category", "extra"):
        assert part in log
    assert "T4" not in log


def test_expression_on_another_scale_is_warned_of_on_stderr(case, output, capsys):
    expression = json.loads((case / PLACES["rna"]).read_text())
    (case / PLACES["rna"]).write_text(json.dumps({gene: 40.0 * value for gene, value in expression.items()}))
    assert end_of(case, output) == 0
    assert "a different scale from the training cohort's" in capsys.readouterr().err


def test_a_mounted_bundle_comes_before_the_demonstrations(case, output, tmp_path, monkeypatch, capsys):
    mounted = Path(shutil.copytree(DEMONSTRATION, tmp_path / "model"))
    edit_json(mounted / "manifest.json", purpose="research", notice="of a team's own")
    monkeypatch.setattr("survfuse.container.model.MOUNTED_MODEL", mounted)
    monkeypatch.setenv("SURVFUSE_REQUIRE_MODEL", "1")
    assert end_of(case, output) == 0
    assert "DEMONSTRATION" not in capsys.readouterr().out


def test_a_mounted_folder_without_a_bundle_is_never_passed_over(case, output, tmp_path, monkeypatch, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.pt").write_text("x")
    monkeypatch.setattr("survfuse.container.model.MOUNTED_MODEL", tmp_path / "model")
    assert end_of(case, output) == 3
    assert "holds no bundle" in capsys.readouterr().err


def test_a_required_model_forbids_the_demonstration(case, output, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("survfuse.container.model.MOUNTED_MODEL", tmp_path / "absent")
    monkeypatch.setenv("SURVFUSE_REQUIRE_MODEL", "1")
    assert end_of(case, output) == 3
    assert end_of(case, output, DEMONSTRATION) == 3
    assert capsys.readouterr().err.count("SURVFUSE_REQUIRE_MODEL forbids") == 2


def test_a_damaged_bundle_ends_in_code_3(case, output, tmp_path, capsys):
    damaged = Path(shutil.copytree(DEMONSTRATION, tmp_path / "damaged"))
    (damaged / "genes.json").write_text("{}")
    assert end_of(case, output, damaged) == 3
    assert end_of(case, output, tmp_path / "nowhere") == 3
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_bundle_without_encoder_weights_cannot_read_slides(bundle, tmp_path, output, capsys):
    """The tiny bundle takes UNI features: they may be given, but its weights are not carried along."""
    root = Path(shutil.copytree(CASES / "interf0", tmp_path / "input"))
    cohort_genes = json.loads((bundle / "genes.json").read_text())["genes"]
    (root / PLACES["rna"]).write_text(json.dumps(dict.fromkeys(cohort_genes, 5.0)))
    assert end_of(root, output, bundle) == 3
    assert "encoder uni needs a weight file" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_ends_in_code_4(case, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    assert job.main(["--input", str(case), "--output", str(tmp_path / "file")]) == 4

    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(job, "write_text", full)
    assert end_of(case, tmp_path / "output") == 4
    assert "No space left" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (MemoryError(), 4),
        (torch.OutOfMemoryError("CUDA out of memory"), 4),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), 4),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), 4),
        (RuntimeError("Could not run 'aten::ne' with arguments from 'SparseCPU'; available: [CPU, CUDA]"), 1),
        (RuntimeError("CUDA error: device-side assert triggered"), 4),
        (KeyboardInterrupt(), 4),
        (OSError(errno.EIO, "Input/output error"), 4),
        (ZeroDivisionError("unforeseen"), 1),
    ],
)
def test_failures_of_the_machine_and_unforeseen_ones(case, output, monkeypatch, capsys, raised, code):
    def fail(*_):
        raise raised

    monkeypatch.setattr("survfuse.prediction.predictor.read_slide", fail)
    assert end_of(case, output) == code
    message = capsys.readouterr().err
    assert ("Traceback" in message) == (code == 1)
    assert code == 1 or len(message.splitlines()) == 1


def test_sigterm_ends_in_code_4_with_nothing_written(output):
    command = [sys.executable, str(ROOT / "inference.py"), "--input", str(CASES / "interf0"), "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline()  # the first stage: the handler is in place
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4 and "ended by SIGTERM" in err
    assert list(output.iterdir()) == []


def test_a_number_of_an_earlier_run_does_not_outlive_a_failure(case, output):
    assert end_of(case, output) == 0
    assert months(output) >= 0.0
    (case / PLACES["rna"]).write_text("[]")
    assert end_of(case, output) == 2
