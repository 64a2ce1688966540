"""A case's tiles as GeoJSON, which QuPath (from 0.4) opens by drag and drop and HistomicsUI takes as annotations.

QuPath reads ``objectType``, ``name``, ``measurements`` as an object of numbers, and ``classification`` with a name and
a color; it refuses a classification without color. HistomicsUI reads ``group``, ``label`` and ``lineColor``. Each
leaves alone what the other reads.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid5

from survfuse.explanation.attribution import Parts
from survfuse.explanation.colours import COLOURS, colour_class, hexadecimal
from survfuse.explanation.explanation import Explanation
from survfuse.explanation.ranking import ranks, told_from_zero
from survfuse.runtime.arrays import Floats
from survfuse.runtime.files import write_text
from survfuse.slide.tile_places import TilePlaces

_NAMESPACE = UUID("6f1c2f6e-3a3c-4f0e-9a53-0d6f5f6b1e17")  # any UUID does, as long as it stays the same


def write_geojson(path: Path, explanation: Explanation) -> None:
    """Write the tiles to ``path``, whole or not at all, as a FeatureCollection of one Polygon each (RFC 7946).

    Coordinates are level-0 pixels; tiles are cut off at the slide's border. Rings are closed and counterclockwise by
    their coordinates, as RFC 7946 asks; where y grows downwards, as on a slide, that looks clockwise. ``id`` is the
    same every run for the same case and tile. The explanation must have ``mapped`` tiles.
    """
    assert explanation.mapped is not None
    places, parts = explanation.mapped
    features = _features(explanation.prediction.name, places, parts, explanation.attribution.attention)
    lines = ",\n".join(json.dumps(feature, allow_nan=False) for feature in features)
    write_text(path, f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n')


def _features(case: str, places: TilePlaces, parts: Parts, attention: Floats | None) -> Iterator[dict[str, object]]:
    """One Feature a tile, in the order of the bag; tiles are numbered from 1."""
    measured = _measurements(parts, attention)
    tiles = zip(places.corners().tolist(), told_from_zero(parts).tolist(), strict=True)
    for number, (corners, told) in enumerate(tiles, start=1):
        values = {name: column[number - 1] for name, column in measured.items()}
        what = colour_class(values["contribution"], told)
        yield {
            "type": "Feature",
            "id": _id(case, number, corners),
            "geometry": {"type": "Polygon", "coordinates": [_ring(corners)]},
            "properties": {
                "objectType": "detection",
                "name": f"tile {number}",
                "measurements": values,
                "classification": {"name": what, "color": COLOURS[what]},
                "group": what,
                "label": {"value": f"tile {number}: {values['contribution']:+.4g}"},
                "lineColor": hexadecimal(COLOURS[what]),
            },
        }


def _measurements(parts: Parts, attention: Floats | None) -> dict[str, list[float]]:
    """What is measured of the tiles, [N] by name; what is not known is left out."""
    columns: dict[str, list[float]] = {"contribution": parts.values.tolist()}
    if parts.spread is not None:
        columns["contribution sd"] = parts.spread.tolist()
    if attention is not None:
        columns["attention"] = attention.tolist()
    return columns | {"rank": ranks(parts.values).tolist()}


def _id(case: str, number: int, corners: list[float]) -> str:
    """A UUID for a tile: two tiles may lie at one place, so its number counts as well."""
    return str(uuid5(_NAMESPACE, f"{case}\n{number}\n{corners[0]:.0f},{corners[1]:.0f}"))


def _ring(corners: list[float]) -> list[list[float]]:
    left, top, right, bottom = corners
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
