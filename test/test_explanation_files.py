"""The files of an explanation, as the libraries of those who open them read them."""

import csv
import json
import math
import re
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import geopandas
import numpy as np
import openslide
import pytest
import pyvips
import SimpleITK as sitk
import tifffile
from conftest import CASES, ROOT, SLIDE
from matplotlib.colors import LinearSegmentedColormap
from scipy.stats import rankdata
from shapely import MultiPolygon, Polygon, box
from shapely.geometry import shape

from survfuse.explanation.attribution import Parts
from survfuse.explanation.colours import COLOURS, LOWERS, NEUTRAL, NOT_TOLD, RAISES, diverging
from survfuse.explanation.contributions import write_contributions
from survfuse.explanation.explanation import Explainer, Explanation
from survfuse.explanation.files import write_files
from survfuse.explanation.geojson import write_geojson
from survfuse.explanation.heatmap import heatmap_bytes, write_heatmaps
from survfuse.inputs.sockets import read_case
from survfuse.prediction.predictor import Predictor
from survfuse.slide.tile_places import TilePlaces

LAYOUTS = ["sample", "side by side", "overlapping", "small"]
FORMULA, SCRIPT = '=HYPERLINK("http://x","y")', "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def explainer(model) -> Explainer:
    return Explainer(Predictor(model.bundle, "cpu"))


@pytest.fixture(scope="module")
def sample(explainer) -> Explanation:
    """That of the sample case with a slide."""
    return explainer.explain(read_case(CASES / "interf0"))


def with_tiles(explained: Explanation, places: TilePlaces, single: bool = False) -> Explanation:
    """The same with other tiles, of random contributions; of a ``single`` member nothing is known of their spread."""
    random = np.random.default_rng(3)
    number = len(places.origins)
    values, attention = random.normal(scale=0.1, size=number), random.dirichlet(np.ones(number))
    spread = None if single else np.abs(random.normal(scale=0.1, size=number))
    attribution = replace(explained.attribution, tiles=Parts(values, spread), attention=attention)
    return replace(explained, attribution=attribution, places=places)


def places_of(layout: str) -> TilePlaces:
    """Tiles in rows and columns with gaps, a few of which extend beyond the border of a slide."""
    side = {"side by side": (448.9, 447.3), "overlapping": (448.0, 448.0), "small": (5.0, 5.0)}[layout]
    step = [length / 2 if layout == "overlapping" else length for length in side]
    x, y = (np.rint(np.arange(24) * length).astype(np.int64) for length in step)
    origins = np.stack([each.ravel() for each in np.meshgrid(x, y)], axis=1)
    origins = origins[np.random.default_rng(5).permutation(len(origins))[:300]]
    size = (int(x[-1] + 0.3 * side[0]), int(y[-1] + 0.8 * side[1]))
    return TilePlaces(origins, side, size, (0.25, 0.26) if layout == "side by side" else None)


@pytest.fixture(scope="module", params=LAYOUTS)
def explained(request, sample) -> Explanation:
    return sample if request.param == "sample" else with_tiles(sample, places_of(request.param))


@pytest.fixture(scope="module")
def files(explained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write_geojson(folder / "tiles.geojson", explained)
    write_heatmaps(folder, explained)
    return folder


# Tiles for QuPath and HistomicsUI


def features_in(folder: Path) -> list[dict]:
    value = json.loads((folder / "tiles.geojson").read_text())
    assert value["type"] == "FeatureCollection"
    return value["features"]


def test_every_ring_is_a_sound_tile_of_the_grid_inside_the_slide(files, explained):
    places = explained.places
    read = geopandas.read_file(files / "tiles.geojson").geometry
    slide = box(0, 0, *places.size)
    assert read.is_valid.all() and read.exterior.is_ccw.all() and read.within(slide).all()
    whole = [box(x, y, x + places.side[0], y + places.side[1]) for x, y in places.origins.tolist()]
    cut = [tile.intersection(slide) for tile in whole]
    assert sum(tile.area < places.side[0] * places.side[1] - 1e-3 for tile in cut) > 0 or places is explained.places
    for ring, tile in zip(read, cut, strict=True):
        assert ring.equals(tile) and ring.area == pytest.approx(tile.area)


def test_rings_are_closed_and_coordinates_are_those_of_the_file(files):
    for feature in features_in(files):
        geometry = feature["geometry"]
        (ring,) = geometry["coordinates"]
        assert geometry["type"] == "Polygon" and len(ring) == 5 and ring[0] == ring[-1]
        assert isinstance(shape(geometry), Polygon)


def test_measurements_are_the_tiles_own(files, explained):
    measured = [feature["properties"]["measurements"] for feature in features_in(files)]
    parts, attention = explained.attribution.tiles, explained.attribution.attention
    assert [each["contribution"] for each in measured] == parts.values.tolist()
    assert [each["contribution sd"] for each in measured] == parts.spread.tolist()
    assert [each["attention"] for each in measured] == attention.tolist()
    assert [each["rank"] for each in measured] == rankdata(-parts.values).tolist()


def test_what_qupath_and_histomicsui_ask_for_is_there(files, explained):
    """QuPath: a detection, a name, a color with every classification. HistomicsUI: colors and labels of its schema."""
    seen = {}
    for number, feature in enumerate(features_in(files), start=1):
        properties, value = feature["properties"], explained.attribution.tiles.values[number - 1]
        assert feature["type"] == "Feature" and properties["objectType"] == "detection"
        assert properties["name"] == f"tile {number}"
        told = abs(value) > explained.attribution.tiles.spread[number - 1]
        expected = ("raises risk" if value > 0 else "lowers risk") if told else "not told from zero"
        assert properties["classification"]["name"] == properties["group"] == expected
        seen[expected] = colour = tuple(properties["classification"]["color"])
        assert len(colour) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
        assert properties["lineColor"] == "#" + bytes(colour).hex()
        assert list(properties["label"]) == ["value"] and isinstance(properties["label"]["value"], str)
    assert seen.items() <= COLOURS.items()


def test_ids_are_distinct_uuids_of_the_case_and_the_tile(files, explained, tmp_path):
    ids = [uuid.UUID(feature["id"]) for feature in features_in(files)]
    assert len(set(ids)) == len(ids) == len(explained.places.origins)
    assert {each.version for each in ids} == {5}
    write_geojson(tmp_path / "tiles.geojson", explained)
    assert (tmp_path / "tiles.geojson").read_bytes() == (files / "tiles.geojson").read_bytes()
    write_geojson(tmp_path / "tiles.geojson", replace(explained, prediction=replace(explained.prediction, name="B")))
    assert not {uuid.UUID(feature["id"]) for feature in features_in(tmp_path)} & set(ids)


def test_ids_of_a_case_are_the_same_in_every_run(explainer, sample, tmp_path):
    for name, each in (("first", sample), ("second", explainer.explain(read_case(CASES / "interf0")))):
        (tmp_path / name).mkdir()
        write_geojson(tmp_path / name / "tiles.geojson", each)
    first, second = ([feature["id"] for feature in features_in(tmp_path / name)] for name in ("first", "second"))
    assert first == second


def test_two_tiles_at_one_place_have_an_id_each(sample, tmp_path):
    places = TilePlaces(np.zeros((2, 2), dtype=np.int64), (10.0, 10.0), (40, 40))
    write_geojson(tmp_path / "tiles.geojson", with_tiles(sample, places))
    first, second = (feature["id"] for feature in features_in(tmp_path))
    assert first != second


def test_what_is_not_known_of_a_single_member_is_not_said(sample, tmp_path):
    explained = with_tiles(sample, places_of("small"), single=True)
    write_geojson(tmp_path / "tiles.geojson", explained)
    for feature, value in zip(features_in(tmp_path), explained.attribution.tiles.values, strict=True):
        assert "contribution sd" not in feature["properties"]["measurements"]
        assert feature["properties"]["classification"]["name"] == (RAISES if value > 0 else LOWERS)


# Heat maps


def downsample_of(folder: Path) -> float:
    with tifffile.TiffFile(folder / "heatmap.tif") as tiff:
        return json.loads(tiff.pages[0].description)["downsample"]


def levels_of(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as tiff:
        return [page.asarray() for page in tiff.pages]


def expected_map(places: TilePlaces, values: np.ndarray, downsample: float) -> np.ndarray:
    """For each pixel the mean of the tiles that its centre lies in, one tile after the other."""
    width, height = (math.ceil(length / downsample) for length in places.size)
    x, y = (np.arange(width) + 0.5) * downsample, (np.arange(height) + 0.5) * downsample
    found = [[[] for _ in x] for _ in y]
    for (left, top), value in zip(places.origins, values, strict=True):
        right, bottom = min(left + places.side[0], places.size[0]), min(top + places.side[1], places.size[1])
        for row in np.flatnonzero((y >= top) & (y < bottom)):
            for column in np.flatnonzero((x >= left) & (x < right)):
                found[row][column].append(value)
    return np.array([[np.mean(pixel) if pixel else np.nan for pixel in row] for row in found])


def test_a_pixel_has_the_contribution_of_the_tile_its_centre_lies_in(files, explained):
    values = levels_of(files / "heatmap.tif")[0]
    expected = expected_map(explained.places, explained.attribution.tiles.values, downsample_of(files))
    assert values.dtype == np.float32 and values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-8)  # NaN where NaN is expected
    assert np.isnan(values).any() and not np.isnan(values).all()


def test_the_downsample_is_the_largest_power_of_two_that_leaves_tiles_eight_pixels(files, explained):
    downsample, side = downsample_of(files), min(explained.places.side)
    assert math.log2(downsample) % 1 == 0
    assert side / downsample < 16
    assert side / downsample >= 8 or downsample == 1


def test_every_level_is_the_mean_of_the_one_before_without_what_is_no_tile(sample, tmp_path):
    places = TilePlaces(np.array([[0, 0], [3996, 0], [8, 5003]]), (9.0, 9.0), (4005, 5011))
    write_heatmaps(tmp_path, with_tiles(sample, places))
    levels = levels_of(tmp_path / "heatmap.tif")
    assert [level.shape for level in levels] == [
        (5011, 4005),
        (2506, 2003),
        (1253, 1002),
        (627, 501),
        (314, 251),
        (157, 126),
    ]
    for finer, coarser in pairwise(levels):
        padded = np.pad(finer, [(0, length % 2) for length in finer.shape], constant_values=np.nan)
        quarters = np.stack([padded[row::2, column::2] for row in (0, 1) for column in (0, 1)])
        known = ~np.isnan(quarters).all(axis=0)
        assert (~np.isnan(coarser) == known).all() and known.any()
        np.testing.assert_allclose(coarser[known], np.nanmean(quarters[:, known], axis=0), rtol=1e-6)


def test_both_files_are_tiled_pyramids_of_the_same_levels(files):
    shapes = []
    for name, kind in (("heatmap.tif", np.float32), ("heatmap-rgba.tif", np.uint8)):
        with tifffile.TiffFile(files / name) as tiff:
            assert all(page.is_tiled and page.tile[:2] == (256, 256) and page.dtype == kind for page in tiff.pages)
            assert all(page.compression.name == "ADOBE_DEFLATE" for page in tiff.pages)
            assert [page.is_reduced for page in tiff.pages] == [False, *[True] * (len(tiff.pages) - 1)]
            shapes.append([page.shape[:2] for page in tiff.pages])
    assert shapes[0] == shapes[1]
    assert max(shapes[0][-1]) <= 256


def test_the_description_says_what_it_is(files, explained):
    for name in ("heatmap.tif", "heatmap-rgba.tif"):
        with tifffile.TiffFile(files / name) as tiff:
            about = json.loads(tiff.pages[0].description)
        assert about["case"] == explained.prediction.name and "contribution" in about["image"]
        assert about["unit"].startswith("standard deviations of the reference risks")
    limit = np.percentile(np.abs(explained.attribution.tiles.values), 99)
    assert [float(value) for value in about["colours"]] == pytest.approx([-limit, 0.0, limit])


def test_the_resolution_is_the_slides_times_the_downsample(files, explained):
    mpp, downsample = explained.places.mpp, downsample_of(files)
    properties = openslide.OpenSlide(files / "heatmap-rgba.tif").properties
    for name in ("heatmap.tif", "heatmap-rgba.tif"):
        with tifffile.TiffFile(files / name) as tiff:
            for number, page in enumerate(tiff.pages):
                if mpp is None:
                    assert page.resolutionunit.name == "NONE"
                else:
                    found = page.get_resolution("micrometer")
                    expected = [1.0 / (each * downsample * 2**number) for each in mpp]
                    assert found == pytest.approx(expected, rel=1e-6)
    if mpp is None:
        assert "openslide.mpp-x" not in properties
    else:
        stated = [float(properties[f"openslide.mpp-{axis}"]) for axis in "xy"]
        assert stated == pytest.approx([each * downsample for each in mpp], rel=1e-6)


def test_the_sample_slide_and_its_map_cover_the_same_microns(sample, tmp_path):
    write_heatmaps(tmp_path, sample)
    slide, found = openslide.OpenSlide(SLIDE), openslide.OpenSlide(tmp_path / "heatmap-rgba.tif")
    for axis in (0, 1):
        name = f"openslide.mpp-{'xy'[axis]}"
        pixel = float(found.properties[name])
        across = slide.dimensions[axis] * float(slide.properties.get(name, sample.places.mpp[axis]))
        assert 0.0 <= found.dimensions[axis] * pixel - across < pixel


def expected_colour(value: float, told: bool, limit: float) -> np.ndarray:
    """matplotlib's map through the three colours that the description states; 60% of the way to white if not told."""
    anchors = [np.array(colour) / 255 for colour in (COLOURS[LOWERS], NEUTRAL, COLOURS[RAISES])]
    scale = LinearSegmentedColormap.from_list("risk", anchors, N=100_001)
    colour = 255 * np.array(scale(0.5 + 0.5 * np.clip(value / limit, -1, 1))[:3])
    return colour if told else colour + 0.6 * (255 - colour)


def test_openslide_and_simpleitk_read_the_tiles_colour_at_the_tiles_place(files, explained):
    places, parts, downsample = explained.places, explained.attribution.tiles, downsample_of(files)
    values = expected_map(places, parts.values, downsample)
    spread = expected_map(places, parts.spread, downsample)
    limit = np.percentile(np.abs(parts.values), 99)
    slide = openslide.OpenSlide(files / "heatmap-rgba.tif")
    assert slide.properties["openslide.vendor"] == "generic-tiff"
    image = sitk.ReadImage(files / "heatmap-rgba.tif")
    assert slide.level_count == len(levels_of(files / "heatmap-rgba.tif"))
    assert image.GetSize() == slide.dimensions == values.shape[::-1]
    for (x, y), width, height in zip(
        places.origins, *np.broadcast_to(places.side, (len(parts.values), 2)).T, strict=True
    ):
        column, row = int((x + 0.1 * width) / downsample + 0.5), int((y + 0.1 * height) / downsample + 0.5)
        if column >= values.shape[1] or row >= values.shape[0]:
            continue
        by_openslide = slide.read_region((column, row), 0, (1, 1)).getpixel((0, 0))
        assert image[column, row] == by_openslide
        if np.isnan(values[row, column]):
            assert by_openslide[3] == 0
        else:
            told = abs(values[row, column]) > spread[row, column]
            assert by_openslide[3] == 255
            assert by_openslide[:3] == pytest.approx(expected_colour(values[row, column], told, limit), abs=0.51)


def test_alpha_is_0_exactly_where_no_tile_lies(files):
    for values, colours in zip(levels_of(files / "heatmap.tif"), levels_of(files / "heatmap-rgba.tif"), strict=True):
        assert ((colours[..., 3] == 0) == np.isnan(values)).all()
        assert set(np.unique(colours[..., 3])) <= {0, 255}


def test_libvips_reads_the_values_and_simpleitk_says_that_it_cannot(files):
    """SimpleITK takes float32 from TIFF strips only, which viewers of pyramids do not take."""
    for number, level in enumerate(levels_of(files / "heatmap.tif")):
        by_vips = pyvips.Image.tiffload(str(files / "heatmap.tif"), page=number).numpy()
        np.testing.assert_array_equal(by_vips, level)
    with pytest.raises(RuntimeError, match="32-bit samples"):
        sitk.ReadImage(files / "heatmap.tif")
    whole = sitk.GetImageFromArray(levels_of(files / "heatmap.tif")[0])  # what the documentation says to do
    assert whole.GetPixelIDTypeAsString() == "32-bit float"


def test_the_bytes_are_those_of_the_file(files, explained):
    assert heatmap_bytes(explained) == (files / "heatmap.tif").read_bytes()


def test_contributions_that_are_all_zero_are_neutral(sample, tmp_path):
    explained = with_tiles(sample, places_of("small"), single=True)
    nothing = Parts(np.zeros_like(explained.attribution.tiles.values), None)
    explained = replace(explained, attribution=replace(explained.attribution, tiles=nothing))
    write_heatmaps(tmp_path, explained)
    (colours,) = levels_of(tmp_path / "heatmap-rgba.tif")
    pale = NEUTRAL[0] + 0.6 * (255 - NEUTRAL[0])
    assert {tuple(pixel) for pixel in colours[colours[..., 3] > 0]} == {(round(pale),) * 3 + (255,)}


def test_a_slide_that_is_stated_to_be_huge_gets_a_coarser_map(sample, tmp_path):
    places = TilePlaces(np.array([[0, 0], [1_999_990, 1_999_990]]), (10.0, 10.0), (2_000_000, 2_000_000))
    write_heatmaps(tmp_path, with_tiles(sample, places))
    with tifffile.TiffFile(tmp_path / "heatmap.tif") as tiff:
        height, width = tiff.pages[0].shape
        assert height * width <= 2**26 < 4 * height * width


MEMORY = """
import resource, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from survfuse.explanation.attribution import Parts
from survfuse.explanation.heatmap import write_heatmaps
from survfuse.slide.tile_places import TilePlaces

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
x, y = np.meshgrid(np.arange(223), np.arange(178))
origins = 448 * np.stack([x.ravel(), y.ravel()], axis=1)[::2][:20_000]
random = np.random.default_rng(0)
parts = Parts(random.normal(size=len(origins)), np.abs(random.normal(size=len(origins))))
mapped = TilePlaces(origins, (448.0, 448.0), (100_000, 80_000)), parts
before = peak()
write_heatmaps(Path(sys.argv[1]), SimpleNamespace(mapped=mapped, prediction=SimpleNamespace(name="large")))
print(peak() - before)
"""


def test_a_map_of_a_large_slide_takes_little_memory(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert int(done.stdout) < 500
    assert openslide.OpenSlide(tmp_path / "heatmap-rgba.tif").dimensions == (3125, 2500)


# Colours

# Machado, Oliveira and Fernandes 2009, severity 1.0: what protans, deutans and tritans see of linear RGB.
PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TRITAN = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]


def lab(colour: tuple[int, ...], seen_as: list[list[float]]) -> np.ndarray:
    """CIELAB (D65) of an sRGB colour as somebody sees it."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(seen_as) @ linear, 0, 1)
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = np.array(to_xyz) @ linear / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen_as", [np.eye(3), PROTAN, DEUTAN, TRITAN], ids=["normal", "protan", "deutan", "tritan"])
def test_colours_are_told_apart_with_every_type_of_colour_vision(seen_as):
    """A CIE76 difference of 2.3 is just noticeable."""
    classes = list(COLOURS.values())
    scale = diverging(np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), np.ones(5, dtype=bool), 1.0)[:, :3].tolist()
    for colours in (classes, scale):
        seen = [lab(colour, seen_as) for colour in colours]
        differences = [np.linalg.norm(seen[a] - seen[b]) for a in range(len(seen)) for b in range(a)]
        assert min(differences) > 15


# The table


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_contributions_sum_to_the_risk_and_are_the_parts(sample, tmp_path):
    write_contributions(tmp_path / "contributions.csv", sample)
    rows = table(tmp_path / "contributions.csv")
    assert list(rows[0]) == ["kind", "name", "value", "sd"]
    assert math.fsum(float(row["value"]) for row in rows) == pytest.approx(sample.prediction.risk, abs=1e-3)
    parts = sample.attribution
    joint = {name.replace(" × ", "_x_"): part for name, part in parts.joint.items()}
    expected = [
        ("baseline", [sample.reference], parts.baseline),
        ("tile", [str(number) for number in range(1, len(parts.tiles.values) + 1)], parts.tiles),
        ("gene", sample.genes, parts.genes),
        ("variable", sample.variables, parts.variables),
        *(("pair", [name], part) for name, part in joint.items()),
    ]
    at = 0
    for kind, names, part in expected:
        for name, value, sd in zip(names, part.values, part.spread, strict=True):
            assert rows[at]["kind"] == kind and rows[at]["name"] == name
            assert float(rows[at]["value"]) == value and float(rows[at]["sd"]) == sd  # to the last bit
            at += 1
    assert at == len(rows) and len(joint) == 3


def test_tiles_have_the_numbers_of_the_geojson(sample, tmp_path):
    write_contributions(tmp_path / "contributions.csv", sample)
    write_geojson(tmp_path / "tiles.geojson", sample)
    by_number = {row["name"]: row["value"] for row in table(tmp_path / "contributions.csv") if row["kind"] == "tile"}
    for feature in features_in(tmp_path):
        number = re.fullmatch(r"tile (\d+)", feature["properties"]["name"])[1]
        assert float(by_number[number]) == feature["properties"]["measurements"]["contribution"]


def test_a_joint_part_of_three_modalities_is_a_triple_and_an_unknown_sd_is_empty(sample, tmp_path):
    attribution = replace(
        sample.attribution,
        baseline=Parts(np.array([0.25]), None),
        tiles=None,
        genes=None,
        variables=None,
        joint={"slide × rna × clinical": Parts(np.array([-0.125]), None)},
    )
    write_contributions(tmp_path / "contributions.csv", replace(sample, attribution=attribution))
    rows = table(tmp_path / "contributions.csv")
    assert [list(row.values()) for row in rows] == [
        ["baseline", sample.reference, "0.25", ""],
        ["triple", "slide_x_rna_x_clinical", "-0.125", ""],
    ]


def test_names_from_inputs_are_harmless_in_every_file(sample, tmp_path):
    genes = (SCRIPT, FORMULA, "-2+3", "@SUM(A1)", *sample.genes[4:])
    explained = replace(sample, genes=genes, prediction=replace(sample.prediction, name=f"{FORMULA}{SCRIPT}"))
    write_contributions(tmp_path / "contributions.csv", explained)
    names = [row["name"] for row in table(tmp_path / "contributions.csv") if row["kind"] == "gene"]
    assert names[:4] == [SCRIPT, f"'{FORMULA}", "'-2+3", "'@SUM(A1)"]
    assert names[4:] == list(sample.genes[4:])
    write_geojson(tmp_path / "tiles.geojson", explained)
    text = (tmp_path / "tiles.geojson").read_text()
    assert SCRIPT not in text and FORMULA not in text
    assert isinstance(geopandas.read_file(tmp_path / "tiles.geojson").union_all(), MultiPolygon | Polygon)
    write_heatmaps(tmp_path, explained)
    comment = openslide.OpenSlide(tmp_path / "heatmap-rgba.tif").properties["openslide.comment"]
    assert json.loads(comment)["case"] == explained.prediction.name
    assert NOT_TOLD in json.loads(comment)


class Elements(HTMLParser):
    """How often a page has each element with its attributes, apart from their values."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: Counter[tuple[str, ...]] = Counter()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found[(tag, *(name for name, _ in attrs))] += 1


def test_names_from_inputs_add_nothing_to_the_page(sample, tmp_path):
    """With names of scripts and with plain ones the page has the same elements, and the same programs to run."""
    pages = []
    for folder, script, name in (("plain", "GENE", "CASE"), ("hostile", SCRIPT, f'{FORMULA}"><img src=x onerror=f>')):
        genes = tuple(f"{script}{number}" for number in range(len(sample.genes)))
        prediction, case = replace(sample.prediction, name=name), replace(sample.case, name=name)
        (tmp_path / folder).mkdir()
        write_files(tmp_path / folder, replace(sample, genes=genes, prediction=prediction, case=case))
        pages.append((tmp_path / folder / "case.html").read_text(encoding="utf-8"))
        assert json.loads((tmp_path / folder / "case.json").read_text())
    plain, hostile = pages
    assert Elements(plain).found == Elements(hostile).found
    assert "GENE" in plain and "&lt;script&gt;alert(1)" in hostile
    assert hostile.count("<script") == plain.count("<script")
