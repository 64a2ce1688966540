"""Features of other tiles than a bundle's, as the field's tools state them; and the layouts that are read."""

import fcntl
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import DEMONSTRATION, MASK, SLIDE, end_of, give_slide, months

from survfuse.cli.main import main
from survfuse.cohort.bags import open_bag
from survfuse.inputs.features import read_features
from survfuse.runtime.errors import InputError
from survfuse.slide.settings import SlideSettings
from survfuse.slide.stated_tile import StatedTile

VALUES = np.random.default_rng(0).normal(size=(9, 1280)).astype(np.float32)
TRIDENT = {"patch_size": 512, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 40}
STAMP = {"tile_size_um": 256.0, "tile_size_px": 224, "extractor": "uni2", "unit": "um", "feat_type": "tile"}


def write(path: Path, root: Mapping[str, object], coords: Mapping[str, object], name: str = "features") -> Path:
    with h5py.File(path, "w") as file:
        file[name] = VALUES
        file["coords"] = np.zeros((len(VALUES), 2), dtype=np.int64)
        file.attrs.update(root)
        file["coords"].attrs.update(coords)
    return path


@pytest.mark.parametrize(
    ("root", "coords", "tile"),
    [
        ({"tile_px": 224, "tile_mpp": 0.5}, {}, StatedTile(224, 0.5)),
        ({}, TRIDENT, StatedTile(512, 0.25)),
        ({}, TRIDENT | {"patch_size": 256, "target_magnification": 20}, StatedTile(256, 0.5)),
        ({}, TRIDENT | {"patch_size": "512", "target_magnification": b" 40 "}, StatedTile(512, 0.25)),
        (STAMP, {}, StatedTile(224, 256 / 224)),
        ({"tile_size": 512.0, "unit": "um", "extractor": "uni2"}, {}, StatedTile(None, 512.0)),  # STAMP 2.0
        ({"tile_size": 512.0}, {}, None),
        ({}, {"patch_size_level0": 448, "level0_magnification": 20}, StatedTile(448, 0.5)),
        ({}, {"patch_size": 256, "patch_level": 0, "downsample": np.array([1.0, 1.0])}, None),  # CLAM
        ({"tile_px": "wide", "tile_mpp": -1.0}, {}, None),
        ({}, {}, None),
    ],
)
def test_the_tile_is_what_the_tool_states(tmp_path, root, coords, tile):
    path = write(tmp_path / "x.h5", root, coords)
    assert read_features(path).tile == tile == open_bag([path], tmp_path / "cache").tile


@pytest.mark.parametrize(
    ("root", "coords", "message"),
    [
        ({"tile_px": 224, "tile_mpp": 0.5}, {}, "features of tiles of 112 µm (224 px of 0.5 µm)"),
        ({}, TRIDENT, "features of tiles of 128 µm (512 px of 0.25 µm)"),
        (STAMP | {"extractor": "efficientnet-lite0", "tile_size_um": 512.0}, {}, "features of tiles of 512 µm"),
        ({"feat_type": "slide"}, {}, "expected features of tiles, found those of a slide"),
    ],
)
def test_a_job_refuses_features_of_other_tiles(case, output, capsys, root, coords, message):
    path = give_slide(case, "x.h5", b"")
    write(path, {"encoder": "efficientnet-lite0"} | root, coords)
    assert end_of(case, output) == 2
    assert f"x.h5: {message}" in (err := capsys.readouterr().err) and len(err.splitlines()) == 1


def test_extract_s_own_features_of_another_resolution_are_refused(case, output, tmp_path, capsys):
    features = tmp_path / "fine.h5"
    assert main(["extract", str(SLIDE), "--mask", str(MASK), "--out", str(features), "--mpp", "0.5"]) == 0
    give_slide(case, "fine.h5", features.read_bytes())
    assert end_of(case, output) == 2
    assert "but the bundle takes those of 224 µm (224 px of 1 µm)" in capsys.readouterr().err


def test_where_nothing_is_stated_the_log_says_so(case, output, capsys):
    torch.save(torch.from_numpy(VALUES), give_slide(case, "x.pt", b""))
    assert end_of(case, output) == 0
    assert "tile size not stated" in capsys.readouterr().out


def test_tiles_that_differ_a_little_are_used_with_a_warning(case, output, capsys):
    """TRIDENT's usual patch of 256 px, which the encoder sees as 224."""
    path = give_slide(case, "x.h5", b"")
    write(path, {"encoder": "efficientnet-lite0"}, TRIDENT | {"patch_size": 256, "target_magnification": 10})
    assert end_of(case, output) == 0
    assert "features of tiles of 256 µm (256 px of 1 µm); the bundle was trained on" in capsys.readouterr().err


@pytest.fixture
def with_features(cohort, tmp_path) -> Path:
    """A cohort whose features state their tile."""
    root = shutil.copytree(cohort, tmp_path / "cohort")
    for path in (root / "features/features").glob("*.pt"):
        with h5py.File(path.with_suffix(".hdf5"), "w") as file:
            file["features"] = torch.load(path, weights_only=True).numpy()
            file.attrs.update({"encoder": "uni", "tile_px": 224, "tile_mpp": 0.5})
        path.unlink()
    return root


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mpp=1"], "features of tiles of 112 µm (224 px of 0.5 µm), but the bundle takes those of 224 µm"),
        (["--encoder=phikon"], "features of"),
    ],
)
def test_train_refuses_features_that_were_made_otherwise(with_features, tmp_path, capsys, options, message):
    command = ["train", str(with_features), "--out", str(tmp_path / "bundle"), "--modalities", "slide", *options]
    assert main(command) == 2
    said = capsys.readouterr()
    assert message in said.err and "trained" not in said.out


def test_predict_on_a_cohort_refuses_and_says_the_same(with_features, bundle, tmp_path, capsys):
    capsys.readouterr()
    assert main(["predict", str(with_features), "--model", str(bundle), "--out", str(tmp_path / "p.csv")]) == 2
    assert "features of tiles of 112 µm (224 px of 0.5 µm), but the bundle takes" in capsys.readouterr().err


def test_patients_whose_features_are_of_other_tiles_than_the_others_are_named(with_features, tmp_path, capsys):
    odd = sorted((with_features / "features/features").iterdir())[4]
    with h5py.File(odd, "a") as file:
        file.attrs["tile_mpp"] = 1.0
    command = ["train", str(with_features), "--out", str(tmp_path / "b"), "--modalities", "slide", "--mpp=0.5"]
    assert main(command) == 2
    expected = "features of tiles of 112 µm (224 px of 0.5 µm) in 59 patients, but 224 µm (224 px of 1 µm) in 3S_05"
    assert expected in capsys.readouterr().err


def test_tiles_that_are_as_wide_on_the_slide_go_together(with_features, tmp_path, capsys):
    """As they do with a bundle's: more and finer pixels, and a scanner's own magnification of its level 0."""
    others = sorted((with_features / "features/features").iterdir())[4:6]
    for path, own in zip(others, ({"tile_px": 449, "tile_mpp": 10 / 40.08}, {}), strict=True):
        with h5py.File(path, "a") as file:
            for name in ("tile_px", "tile_mpp"):
                del file.attrs[name]
            file.attrs.update(own)
    command = ["train", str(with_features), "--out", str(tmp_path / "b"), "--modalities", "slide", "--mpp=0.5"]
    assert main([*command, "--fusion=cox-slide", "--folds=2", "--inner=2", "--draws=10"]) == 0
    said = capsys.readouterr()
    assert not said.err
    assert "tile size of 1 of 60 patients (3S_06) not stated; taken to be 112 µm (224 px of 0.5 µm)" in said.out


def test_a_patient_s_slides_may_state_the_same_tile_in_other_words(tmp_path):
    paths = [write(tmp_path / f"{n}.h5", {"tile_px": px, "tile_mpp": 224 / px}, {}) for n, px in enumerate((224, 448))]
    assert open_bag(paths, tmp_path / "cache").tile == StatedTile(224, 1.0)
    paths.append(write(tmp_path / "2.h5", {"tile_px": 256, "tile_mpp": 1.0}, {}))
    with pytest.raises(InputError, match=r"slides with features of different tiles: 224 µm .* 0\.h5, 256 µm .* 2\.h5"):
        open_bag(paths, tmp_path / "cache")


def test_a_tile_without_width_is_no_other_s():
    for tile in (StatedTile(1e-200, 1e-200), StatedTile(1e200, 1e200)):
        assert not tile.is_alike(StatedTile(224, 1.0)) and not StatedTile(224, 1.0).is_alike(tile)


def test_settings_compare_the_width_on_the_slide():
    settings = SlideSettings("uni", 1024)
    settings.check_features(1024, "uni", tile=StatedTile(448, 0.5))
    with pytest.raises(InputError, match="features of tiles of 512 µm, but the bundle takes those of 224 µm"):
        settings.check_features(1024, "uni", tile=StatedTile(None, 512.0))
    with pytest.raises(InputError, match="tiles of 56 µm"):
        settings.check_features(1024, "uni", tile=StatedTile(224, 0.25))


# Layouts and messages


def test_hdf5_by_its_other_suffix_and_stamp_s_name_are_read(case, output, tmp_path):
    first = next((case / "images").rglob("*.h5"))
    data = first.read_bytes()
    assert end_of(case, output) == 0
    expected = months(output)
    path = give_slide(case, "x.hdf5", data)
    assert end_of(case, output) == 0 and months(output) == expected
    with h5py.File(path, "a") as file:
        file.move("features", "feats")
    assert end_of(case, output) == 0 and months(output) == expected


def test_a_file_without_features_says_what_it_holds(tmp_path):
    path = tmp_path / "patches.h5"
    with h5py.File(path, "w") as file:
        file["coords"] = np.zeros((4, 2), dtype=np.int64)
        file.create_group("more")
    with pytest.raises(InputError, match=r"patches\.h5: expected a dataset 'features' .*'coords' \(int64 \[4, 2\]\)"):
        read_features(path)


def test_coordinates_of_another_shape_are_said(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = VALUES, np.zeros((9, 4), dtype=np.int64)
    with pytest.raises(InputError, match=r"x\.h5: 9 tiles, but coords of shape \[9, 4\]; expected \[9, 2\]"):
        read_features(path)


def test_a_file_that_is_still_being_written_is_said(tmp_path):
    """HDF5's writers hold this lock."""
    path = write(tmp_path / "x.h5", {}, {})
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"x\.h5: is still open in another program that writes it"):
            read_features(path)


def test_a_numpy_array_in_a_torch_file_is_named(tmp_path):
    torch.save(VALUES, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt: expected a tensor, found a pickled numpy array"):
        read_features(tmp_path / "x.pt")


def test_the_demonstration_bundle_s_tile():
    stated = json.loads((DEMONSTRATION / "manifest.json").read_text())["slide"]
    assert (stated["tile_px"], stated["mpp"]) == (224, 1.0)
