"""Slide-level vectors as TRIDENT and STAMP write them, and files that are none."""

import h5py
import numpy as np
import pytest
import torch

from survfuse.inputs.case import Case
from survfuse.inputs.features import read_features
from survfuse.inputs.slide_vectors import mean_vector, read_vector, vector_of, write_vector
from survfuse.runtime.errors import InputError

VALUES = np.linspace(-1.0, 1.0, 768, dtype=np.float32)


def trident(path, values=VALUES, tiles=5, **attributes):
    """As TRIDENT's ``save_h5``: one row a chunk, no limit to the rows; ``name`` is the slide's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        rest = values.shape[1:]
        made = file.create_dataset("features", data=values, chunks=(1, *rest), maxshape=(None, *rest))
        made.attrs.update({"name": path.stem, **attributes})
        file.create_dataset("coords", data=np.zeros((tiles, 2), dtype=np.int64))
    return path


def stamp(path, kind="slide", values=VALUES, encoder="prism"):
    with h5py.File(path, "w") as file:
        file["feats"] = values
        file.attrs.update({"encoder": encoder, "feat_type": kind, "stamp_version": "2.4.0"})
    return path


def torch_file(path, values):
    torch.save(values, path)
    return path


def test_tridents_files_name_their_encoder_by_the_folder_that_they_were_written_to(tmp_path):
    moved = trident(tmp_path / "moved" / "a.h5", savetodir="/x/20x_512px_0px_overlap/slide_features_titan")
    windows = trident(tmp_path / "moved" / "b.h5", savetodir="C:\\x\\slide_features_TITAN\\")
    found = [read_vector(path) for path in (moved, windows)]
    assert all(np.array_equal(each.values, VALUES) for each in found)
    assert {each.encoder for each in found} == {"titan"}
    at_home = trident(tmp_path / "slide_features_chief" / "a.h5")
    assert read_vector(at_home).encoder == "chief"
    assert read_vector(trident(tmp_path / "vectors" / "a.h5")).encoder is None


@pytest.mark.parametrize("kind", ["slide", "patient"])
def test_stamps_files_name_their_encoder(tmp_path, kind):
    found = read_vector(stamp(tmp_path / "a.h5", kind, VALUES[None]))
    assert np.array_equal(found.values, VALUES) and found.encoder == "prism"


@pytest.mark.parametrize("shape", [(768,), (1, 768), (1, 1, 768)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_files_and_values_in_memory_are_read_in_any_precision(tmp_path, shape, dtype):
    stored = torch.from_numpy(VALUES).to(dtype)
    path = torch_file(tmp_path / "a.pt", stored.reshape(shape))
    expected = stored.float().numpy()
    for found in (read_vector(path), vector_of(stored.reshape(shape), "a case")):
        assert found.values.dtype == np.float32 and found.values.tolist() == expected.tolist()
        assert found.encoder is None
    assert vector_of(stored.double().numpy(), "a case").values.tolist() == expected.tolist()


def test_what_is_written_is_read(tmp_path):
    write_vector(tmp_path / "a.h5", VALUES.astype(np.float64), "titan")
    found = read_vector(tmp_path / "a.h5")
    assert np.array_equal(found.values, VALUES) and found.encoder == "titan"


def test_several_slides_of_a_patient_have_the_mean_of_their_vectors(tmp_path):
    random = np.random.default_rng(0)
    values = random.standard_normal((3, 16)).astype(np.float32)
    paths = [stamp(tmp_path / f"{number}.h5", values=each) for number, each in enumerate(values)]
    found = mean_vector([read_vector(path) for path in paths])
    assert found.values == pytest.approx(values.astype(np.float64).mean(axis=0), rel=1e-6, abs=1e-7)
    assert found.encoder == "prism"
    other, longer = stamp(tmp_path / "x.h5", encoder="chief", values=values[0]), stamp(tmp_path / "y.h5")
    with pytest.raises(InputError, match=r"different encoders: prism in 0\.h5, chief in x\.h5"):
        mean_vector([read_vector(paths[0]), read_vector(other)])
    with pytest.raises(InputError, match=r"different lengths: 16 in 0\.h5, 768 in y\.h5"):
        mean_vector([read_vector(paths[0]), read_vector(longer)])


def broken(number: int, value: float) -> np.ndarray:
    changed = VALUES.copy()
    changed[number] = value
    return changed


UNUSABLE = {
    "tile features": (
        lambda p: trident(p, np.ones((5, 8), dtype=np.float32)),
        r"found shape \[5, 8\]; tile features are the modality slide",
    ),
    "tile features by STAMP": (lambda p: stamp(p, "tile", VALUES[None]), "found features of a tile"),
    "no tissue": (
        lambda p: trident(p, np.empty(0, dtype=np.float32), 0),
        "empty; TRIDENT writes such a slide-level vector for a slide without tissue",
    ),
    "a number": (lambda p: stamp(p, values=np.float32(1.0)), r"found shape \[\]"),
    "four dimensions": (lambda p: stamp(p, values=VALUES.reshape(1, 1, 1, -1)), r"found shape \[1, 1, 1, 768\]"),
    "too long": (lambda p: stamp(p, values=np.ones(65_537, dtype=np.float32)), "found 65,537"),
    "whole numbers": (lambda p: stamp(p, values=np.arange(8)), "of floating-point numbers, found 'feats'"),
    "NaN": (lambda p: stamp(p, values=broken(3, np.nan)), "number 4 of its slide-level vector is NaN or infinite"),
    "too large for float32": (lambda p: stamp(p, values=np.array([1.0, 1e300])), "number 2 of its"),
    "zeros": (lambda p: stamp(p, values=np.zeros(8)), "every number of its slide-level vector is 0"),
    "no HDF5": (lambda p: p.write_text("x"), "cannot be read as HDF5"),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_files_that_hold_no_vector_are_named(tmp_path, what):
    write, message = UNUSABLE[what]
    path = tmp_path / "a.h5"
    write(path)
    with pytest.raises(InputError, match=f"^a.h5: .*{message}"):
        read_vector(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(5, 8), "tile features are the modality slide"),
        (torch.arange(8), "found torch.int64"),
        ({"features": torch.ones(8)}, "expected a tensor, found dict"),
        (torch.tensor([1.0, float("inf")]), "number 2"),
    ],
)
def test_torch_files_that_hold_no_vector_are_named(tmp_path, value, message):
    with pytest.raises(InputError, match=f"^a.pt: .*{message}"):
        read_vector(torch_file(tmp_path / "a.pt", value))


def test_values_in_memory_that_are_no_vector_are_named():
    with pytest.raises(InputError, match=r"^a case: expected a slide-level vector of numbers"):
        vector_of([[1.0], [2.0, 3.0]], "a case")
    with pytest.raises(InputError, match=r"^a case: expected a slide-level vector of floating-point numbers"):
        vector_of(["x"], "a case")


def test_only_a_slide_encoder_is_one(tmp_path):
    path = trident(tmp_path / "slide_features_titan" / "a.h5", extractor="conch_v1_5")
    assert read_vector(path).encoder == "titan" and Case(vector=path).name == "a"


def test_a_table_is_no_vector_and_a_vector_no_tile_features(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n")
    with pytest.raises(InputError, match=r"^a\.csv: expected a slide-level vector in \.h5, \.hdf5, \.pt"):
        read_vector(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"found shape \[768\]; slide-level vectors are the modality vector"):
        read_features(trident(tmp_path / "b" / "a.h5"))
    with pytest.raises(InputError, match=r"found those of a slide; slide-level vectors are the modality vector"):
        read_features(stamp(tmp_path / "c.h5", values=VALUES[None]))
