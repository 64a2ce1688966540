"""Where a case's tiles lie on its slide."""

from pathlib import Path

import numpy as np

from survfuse.inputs.case import Case
from survfuse.inputs.feature_places import file_places, places_of
from survfuse.prediction.vectors import SlideTiles
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import Note, count, stage
from survfuse.slide.suffixes import HDF5_SUFFIXES
from survfuse.slide.tile_places import TilePlaces


def case_places(case: Case, tiles: SlideTiles | None) -> TilePlaces | None:
    """The places of the ``tiles`` that a case was scored with; logs why there are none, and what was inferred.

    Raises InputError for coordinates that cannot be read, or are not as many as the tiles.
    """
    if tiles is None or tiles.places is not None:
        return tiles.places if tiles is not None else None
    found = _stated(case)
    if found is None:
        text = "the tiles' places, or their width, are not known: no map of them"
        stage("map", Note(text, (text,)))
        return None
    places, side_from = found
    if len(places.origins) != len(tiles.features):
        expected = f"expected those of {count(len(tiles.features), 'tile')}"
        raise InputError(f"{case.name}: coordinates of {count(len(places.origins), 'tile')}, {expected}")
    stage("map", f"by coordinates, without pixels: tiles of {places.side[0]:.0f} level-0 px, {side_from}")
    return places


def _stated(case: Case) -> tuple[TilePlaces, str] | None:
    """The places that the case's coordinates, or else its file of features, state; and where the side comes from."""
    source = case.coordinates
    if source is None and isinstance(case.features, Path) and case.features.suffix.lower() in HDF5_SUFFIXES:
        source = case.features
    if source is None:
        return None
    if isinstance(source, Path):
        return file_places(source)
    values = np.asarray(source)
    if values.ndim != 2 or values.shape[1] != 2 or values.dtype.kind not in "iu":
        raise InputError(f"{case.name}: expected coordinates [N, 2] of whole numbers, found {values.dtype}")
    return places_of(values.astype(np.int64))
