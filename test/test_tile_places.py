"""Where the tiles of feature files lie, as the field's tools state it or as the tiles' spacing shows."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import FEATURES, SLIDE

import survfuse
from survfuse.explanation.case_places import case_places
from survfuse.inputs.feature_places import BY_SPACING, STATED, file_places, places_of, read_coordinates
from survfuse.prediction.vectors import SlideTiles
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import recorded
from survfuse.slide.tile_places import TilePlaces

GRID = np.array([[x, y] for y in range(0, 4 * 512, 512) for x in range(1024, 1024 + 5 * 512, 512)])


def written(path: Path, origins: np.ndarray, **attributes: object) -> Path:
    with h5py.File(path, "w") as file:
        file["features"] = np.ones((len(origins), 8), dtype=np.float32)
        file["coords"] = origins
        file["coords"].attrs.update(attributes)
    return path


def test_trident_states_the_side_and_the_slide(tmp_path):
    path = written(
        tmp_path / "x.h5", GRID, patch_size=256, patch_size_level0=500, level0_width=9000, level0_height=8000
    )
    places, words = file_places(path)
    assert (places.side, places.size, words) == ((500.0, 500.0), (9000, 8000), STATED)
    assert (places.origins == GRID).all()


def test_without_a_stated_side_it_is_the_usual_distance(tmp_path):
    """CLAM's files of features state none; some tiles of another contour lie between the others."""
    path = written(tmp_path / "x.h5", np.concatenate([GRID, [[1100, 0], [1111, 512]]]))
    places, words = file_places(path)
    assert (places.side, words) == ((512.0, 512.0), BY_SPACING)
    assert places.size == (1024 + 5 * 512, 4 * 512)  # where the tiles end


@pytest.mark.parametrize("origins", [[[7, 7]], [[0, 0], [10, 20], [30, 50]]], ids=["one tile", "no neighbours"])
def test_tiles_without_neighbours_have_no_known_side(tmp_path, origins):
    assert file_places(written(tmp_path / "x.h5", np.array(origins))) is None


def test_a_size_that_the_tiles_contradict_is_not_believed():
    places, _ = places_of(GRID, 512.0, (100, 9000))
    assert places.size == (1024 + 5 * 512, 9000)


def test_corners_are_cut_off_at_the_border():
    places = TilePlaces(np.array([[0, 0], [90, 80]]), (20.0, 30.0), (100, 100))
    assert places.corners().tolist() == [[0, 0, 20, 30], [90, 80, 100, 100]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 3), dtype=int), r"expected coordinates \[N, 2\], found int64 \[3, 3\]"),
        (np.array([["a", "b"]]), r"expected coordinates \[N, 2\], found <U1"),
        (np.array([[0.0, np.nan]]), r"expected coordinates \[N, 2\]"),
        (np.array([[{}, {}]], dtype=object), "cannot be read as coordinates"),
    ],
)
def test_other_arrays_are_refused(tmp_path, values, message):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InputError, match=message):
        read_coordinates(tmp_path / "x.npy")


def test_archives_and_places_beyond_any_slide_are_refused(tmp_path):
    np.savez(tmp_path / "several.npz", a=GRID)
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    (tmp_path / "broken.npy").write_bytes(b"PK\x03\x04 no archive")
    np.save(tmp_path / "far.npy", [[0.0, 1e300]])
    for name, message in (
        ("several", r"found several arrays"),
        ("broken", "cannot be read as coordinates"),
        ("far", "expected coordinates of at most 2,097,152 px"),
    ):
        with pytest.raises(InputError, match=message):
            read_coordinates(tmp_path / f"{name}.npy")
    assert places_of(np.array([[0, 0], [448, 0], [10**9, 448]])) is None


def tiles(number: int) -> SlideTiles:
    return SlideTiles(torch.zeros(number, 8), False, None)


def test_a_case_takes_coordinates_beside_features_in_memory():
    case = survfuse.Case(features=np.ones((20, 8), dtype=np.float32), coordinates=GRID)
    with recorded(show=False) as said:
        places = case_places(case, tiles(20))
    assert (places.origins == GRID).all() and places.mpp is None
    assert [name for name, _ in said.notes] == ["map"] and "without pixels" in said.notes[0][1].text
    with pytest.raises(InputError, match="coordinates of 20 tiles, expected those of 7 tiles"):
        case_places(case, tiles(7))


def test_coordinates_without_features_and_of_another_shape_are_refused():
    with pytest.raises(InputError, match="coordinates belong to tile features"):
        survfuse.Case(slide=SLIDE, coordinates=GRID)
    case = survfuse.Case(features=np.ones((20, 8), dtype=np.float32), coordinates=GRID.astype(float))
    with pytest.raises(InputError, match=r"expected coordinates \[N, 2\] of whole numbers"):
        case_places(case, tiles(20))


def test_features_without_coordinates_have_no_map(tmp_path):
    torch.save(torch.ones(4, 8), tmp_path / "x.pt")
    for case in (survfuse.Case(features=tmp_path / "x.pt"), survfuse.Case(features=np.ones((4, 8), dtype=np.float32))):
        with recorded(show=False) as said:
            assert case_places(case, tiles(4)) is None
        assert "no map" in said.notes[0][1].text


def test_the_sample_cases_features_lie_on_the_programs_own_grid(tmp_path):
    places, words = file_places(Path(shutil.copy(FEATURES, tmp_path)))
    starts = [round(place * 224 / 0.499) for place in range(8)]
    assert words == STATED and places.side == (449.0, 449.0) and places.size == (2220, 2967)
    assert places.mpp == pytest.approx((0.499, 0.499), rel=1e-3)
    assert set(places.origins.ravel().tolist()) <= set(starts)
