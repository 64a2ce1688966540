"""What the speed benchmarks run on, made where it is missing: slides, masks, a bundle at full size, its cases.

A mosaic of the sample slide, mirrored copies of it side by side, has real tissue by the thousand tiles. A simulated
slide of any size is mostly background, its tissue three discs of real tiles; a background tile is a few bytes, so that
ten thousand million pixels take little disk. Everything is made whole or not at all, and made once.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import tifffile
import torch
from encoder_precision import random_network
from numpy.typing import NDArray
from safetensors.torch import save_file

from survfuse.bundle.manifest import RESEARCH, Manifest, MemberEntry, member_file
from survfuse.bundle.save import Tables, save
from survfuse.cohort.simulate import simulate
from survfuse.inputs.clinical import Categorical, Numeric, Vocabulary
from survfuse.inputs.expression import Expression, ScaleRange
from survfuse.networks.build import build
from survfuse.networks.families import Family, families_of
from survfuse.networks.sizes import Sizes
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.slide.grid import Grid
from survfuse.slide.order import curve_order
from survfuse.slide.pixels import Slide
from survfuse.slide.settings import SlideSettings
from survfuse.slide.tissue import find_tissue
from survfuse.survival.calibration import Calibration
from survfuse.survival.curves import SurvivalCurve
from survfuse.tasks.chimera3 import TASK

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "bench"
SAMPLE = ROOT / "test/input/interf0"
PLACES = {name: socket.place for name, socket in TASK.sockets.items()}  # by modality, and "mask"
SAMPLE_SLIDE = SAMPLE / PLACES["slide"] / "3S_001_HE.tif"
SAMPLE_MASK = SAMPLE / PLACES["mask"] / "3S_001_HE_mask.tif"
DEMONSTRATION = ROOT / "resources/demonstration"
GENES, TILE = 19_359, 512
SIMULATED_MPP = 0.5  # µm per pixel; a tile of 224 µm is 448 px
COMBINATION = "slide+rna+clinical"


def mosaic(across: int = 10, down: int = 10) -> Path:
    """A case around ``across`` × ``down`` copies of the sample slide, each mirrored by chance, with their mask."""

    def make(root: Path) -> None:
        import pyvips  # which few machines have, and nothing else here needs

        turns = np.random.default_rng(0).integers(0, 4, across * down)
        for source, place, options in (
            (SAMPLE_SLIDE, "slide", {"compression": "jpeg", "Q": 80}),
            (SAMPLE_MASK, "mask", {"compression": "deflate", "region_shrink": "nearest"}),
        ):
            image = pyvips.Image.new_from_file(str(source)).copy_memory()
            copies = [image, image.fliphor(), image.flipver(), image.fliphor().flipver()]
            joined = pyvips.Image.arrayjoin([copies[turn] for turn in turns], across=across)
            target = root / PLACES[place] / "mosaic.tif"
            target.parent.mkdir(parents=True)
            joined = joined.copy(xres=image.xres, yres=image.yres)
            joined.tiffsave(
                str(target), tile=True, tile_width=256, tile_height=256, pyramid=True, bigtiff=True, **options
            )
        _variables(root)

    return _made(f"mosaic-{across}x{down}", make)


def some_tiles(case: Path, number: int, full_size: bool = False) -> Path:
    """``case`` with a mask of ``number`` of its tiles alone, neighbours along the way they are encoded.

    With ``full_size``, the variables are those that ``full_size_bundle`` takes.
    """

    def make(root: Path) -> None:
        slide = _only(case / PLACES["slide"])
        (root / PLACES["slide"]).mkdir(parents=True)
        (root / PLACES["slide"] / slide.name).symlink_to(slide.resolve())
        with Slide(slide) as opened:
            grid = Grid.over(opened.size, opened.mpp, 224, 1.0)
            origins = find_tissue(opened, grid, _only(case / PLACES["mask"]), 0.5).origins
            chosen = origins[curve_order(*grid.places(origins).T)[:number]]
            tissue = np.zeros((opened.size[1] // 4, opened.size[0] // 4), dtype=np.uint8)
        for x, y in chosen // 4:
            tissue[y : y + round(grid.side[1] / 4), x : x + round(grid.side[0] / 4)] = 1
        (root / PLACES["mask"]).mkdir()
        tifffile.imwrite(root / PLACES["mask"] / "some.tif", tissue, tile=(256, 256), compression="deflate")
        _full_size_variables(root, number) if full_size else _variables(root)

    return _made(f"{case.name}-{number}-tiles{'-full-size' if full_size else ''}", make)


def simulated(side: int, tissue_tiles: int = 3000, mask: str = "pyramid") -> Path:
    """A case around a simulated slide of ``side`` × ``side`` px, with a mask of the slide's full resolution.

    At most a quarter of the slide is tissue. ``mask`` is "pyramid" or "flat" (one level).
    """
    discs = _Discs(side, min(tissue_tiles * (224.0 / SIMULATED_MPP) ** 2, side * side / 4.0))

    def make(root: Path) -> None:
        for place in ("slide", "mask"):
            (root / PLACES[place]).mkdir(parents=True)
        _write_pyramid(root / PLACES["slide"] / "simulated.tif", side, True, _slide_tiles(discs))
        _write_pyramid(root / PLACES["mask"] / "mask.tif", side, mask == "pyramid", _mask_tiles(discs))
        _variables(root)

    return _made(f"simulated-{side}-{tissue_tiles}-{mask}", make)


def full_size_bundle(members: int = 5, encoder: bool = False) -> Path:
    """Bilinear members of the paper's sizes with random weights, and every table such a bundle has; with ``encoder``,
    a ViT-L's random weights as well."""

    def make(root: Path) -> None:
        genes = tuple(f"GENE{number:05}" for number in range(GENES))
        variables = tuple(Categorical(f"variable {n}", ("no", "yes")) for n in range(6))
        if encoder:
            (root / "encoder").mkdir()
            save_file(random_network("uni").state_dict(), root / "encoder/weights.safetensors")
        slide = SlideSettings("uni", 1024, weights="encoder/weights.safetensors" if encoder else None)
        family = families_of(TASK.modalities)["bilinear"]
        _save_random(root, [family] * members, Sizes(genes=GENES), genes, _profile(), variables, slide)

    return _made(f"bundle-{members}{'-encoder' if encoder else ''}", make)


def cohort(patients: int = 100) -> Path:
    """A simulated cohort of so many patients, with random tile features."""

    def make(root: Path) -> None:
        shutil.rmtree(root)
        simulate(root, patients, seed=5)

    return _made(f"cohort-{patients}", make)


def every_family_bundle(members: int = 170) -> Path:
    """So many members of every family in turn, at the paper's sizes over tiles, with random weights, for ``cohort``."""
    first = min((cohort() / "data").glob("*/*_RNA.json"))

    def make(root: Path) -> None:
        genes = tuple(json.loads(first.read_text()))
        families = list(families_of(TASK.modalities).values())
        chosen = [families[number % len(families)] for number in range(members)]
        sizes = Sizes(genes=len(genes), rna=(256, 128, 64), stand_ins=True)
        profile, slide = np.full(len(genes), 3.0), SlideSettings("uni", 1024)
        _save_random(root, chosen, sizes, genes, profile, (), slide)

    return _made(f"every-family-{members}", make)


def _save_random(
    root: Path,
    families: Sequence[Family],
    sizes: Sizes,
    genes: tuple[str, ...],
    profile: NDArray[np.float64],
    variables: tuple[Categorical, ...],
    slide: SlideSettings,
) -> None:
    """A bundle of one member of each of ``families`` with random weights, and every table such a bundle has.

    ``profile`` [G] is the mean log1p expression of the imagined cohort, ``variables`` are those besides the numbers.
    """
    random = np.random.default_rng(0)
    numeric = (Numeric("age", 68.9, 9.0), Numeric("no_instillations", 19.2, 9.3))
    vocabulary = Vocabulary(numeric, variables, TASK.missing_codes, TASK.outcome.keys)
    sizes = replace(sizes, clinical=len(vocabulary.columns))
    risks = np.sort(random.normal(size=148))
    times, events = random.exponential(60.0, 148).round() + 1.0, random.random(148) < 0.4
    manifest = Manifest(
        purpose=RESEARCH,
        notice="random weights, for benchmarks",
        provenance={},
        slide=slide,
        combinations={COMBINATION: RiskScale(0.0, float(len(families)))},
        members=tuple(
            MemberEntry(member_file(n), family.name, sizes.to_json(), {COMBINATION: MemberWeight(1.0, 0.0, 1.0)})
            for n, family in enumerate(families)
        ),
        tables=("calibration.json", "genes.json", "clinical.json", "survival.json", "model-card.md"),
    )
    tables = Tables(
        Calibration.fit(times, events, risks),
        Expression(
            genes, "log1p-standardise", profile, np.ones(len(genes)), ScaleRange(profile, (-1.0, 1.0), (0.5, 1.5))
        ),
        vocabulary,
        {COMBINATION: SurvivalCurve.fit(risks, times, events)},
        "Random weights, for benchmarks.\n",
    )
    save(root, manifest, (_state(family, sizes, seed) for seed, family in enumerate(families)), tables)


def features_case(tiles: int, suffix: str = ".h5") -> Path:
    """A case of ``full_size_bundle``'s with so many tiles' features, and expression of every gene."""

    def make(root: Path) -> None:
        random = np.random.default_rng(tiles)
        folder = root / PLACES["slide"]
        folder.mkdir(parents=True)
        values = random.normal(size=(tiles, 1024)).astype(np.float32)
        if suffix == ".pt":
            torch.save(torch.from_numpy(values), folder / "case.pt")
        else:
            with h5py.File(folder / "case.h5", "w") as file:
                places = np.arange(tiles)
                file["features"], file["coords"] = values, 448 * np.stack([places % 150, places // 150], axis=1)
                file.attrs["encoder"] = "uni"
        _full_size_variables(root, tiles)

    return _made(f"features-{tiles}{suffix}", make)


class _Discs:
    """Tissue of a simulated slide: three discs, in level-0 pixels, of ``area`` together."""

    def __init__(self, side: int, area: float) -> None:
        unit = np.sqrt(area / (np.pi * 1.5))  # radii 1, 0.6, 0.374 of it: squares that add up to 1.5
        self.centres = np.array([[0.35, 0.4], [0.75, 0.7], [0.7, 0.2]]) * side
        self.radii = np.array([1.0, 0.6, np.sqrt(0.14)]) * unit

    def tile(self, column: int, row: int, reach: int, pixels: int) -> NDArray[np.bool_] | bool:
        """Tissue [pixels, pixels] of the tile that reaches ``reach`` level-0 pixels; one value where all is alike."""
        if pixels > 2:
            corners = self.tile(column, row, reach, 2)
            if isinstance(corners, bool):
                return corners
        at = np.arange(pixels) * (reach / (pixels - 1 if pixels == 2 else pixels))
        x, y = at + column * reach, (at + row * reach)[:, np.newaxis]
        # Between the corners: a tile is far smaller than a disc, so what no corner sees is a sliver.
        far = [(x - cx) ** 2 + (y - cy) ** 2 > r * r for (cx, cy), r in zip(self.centres, self.radii, strict=True)]
        tissue = ~np.logical_and.reduce(far)
        return bool(tissue.flat[0]) if tissue.all() or not tissue.any() else tissue


def _slide_tiles(discs: _Discs):
    """(column, row, downsample) → JPEG of a tile: real tissue where a disc is, white elsewhere."""
    with Slide(SAMPLE_SLIDE) as slide:
        corners = [(x, y) for x in (200, 700, 1200, 1600) for y in (300, 900, 1500, 2100)]
        crops = [slide.read(corner, (TILE, TILE), (TILE, TILE)) for corner in corners]
    jpegs = [imagecodecs.jpeg_encode(crop, level=80) for crop in crops]
    white = imagecodecs.jpeg_encode(np.full((TILE, TILE, 3), 243, dtype=np.uint8), level=80)

    def tile(column: int, row: int, downsample: int) -> bytes:
        found = discs.tile(column, row, TILE * downsample, TILE)
        return white if found is False else jpegs[(7 * column + 13 * row) % len(jpegs)]

    return tile


def _mask_tiles(discs: _Discs):
    """(column, row, downsample) → deflated tile of the mask."""
    alike = {value: zlib.compress(bytes([value]) * TILE * TILE) for value in (False, True)}

    def tile(column: int, row: int, downsample: int) -> bytes:
        found = discs.tile(column, row, TILE * downsample, TILE)
        return alike[found] if isinstance(found, bool) else zlib.compress(found.astype(np.uint8).tobytes())

    return tile


def _write_pyramid(path: Path, side: int, pyramid: bool, tile) -> None:
    """A tiled BigTIFF of encoded tiles, halved level by level until it is a few tiles wide."""
    slide = TASK.sockets["slide"].slug in str(path) or PLACES["slide"] in str(path)
    kind = (
        {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)} if slide else {"compression": "deflate"}
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        downsample = 1
        while downsample == 1 or (pyramid and side // downsample >= 2 * TILE):
            size = side // downsample
            places = range((size + TILE - 1) // TILE)
            data = (tile(column, row, downsample) for row in places for column in places)
            per_cm = 10_000.0 / SIMULATED_MPP / downsample
            file.write(
                data,
                shape=(size, size, 3) if slide else (size, size),
                dtype=np.uint8,
                tile=(TILE, TILE),
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                subfiletype=int(downsample > 1),
                metadata=None,
                **kind,
            )
            downsample *= 2


def _full_size_variables(root: Path, seed: int) -> None:
    values = np.expm1(_profile() + np.random.default_rng(seed).normal(scale=0.3, size=GENES)).clip(0.0)
    expression = {f"GENE{n:05}": round(float(x), 3) for n, x in enumerate(values)}
    (root / PLACES["rna"]).write_text(json.dumps(expression))
    variables = {"age": 70, "no_instillations": 15} | {f"variable {n}": "yes" for n in range(6)}
    (root / PLACES["clinical"]).write_text(json.dumps(variables))


def _profile() -> NDArray[np.float64]:
    """Mean log1p expression of the bundle's imagined cohort."""
    return np.random.default_rng(1).gamma(2.0, 1.0, GENES)


def _state(family: Family, sizes: Sizes, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return build(family, sizes).state_dict()


def _variables(root: Path) -> None:
    """The sample patient's expression and clinical variables."""
    for place in ("rna", "clinical"):
        shutil.copy(SAMPLE / PLACES[place], root / PLACES[place])


def only(case: Path, place: int) -> Path:
    """A case's slide (0) or its mask (1)."""
    return _only(case / PLACES[("slide", "mask")[place]])


def _only(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def _made(name: str, make) -> Path:
    """The folder ``name`` of FOLDER, made by ``make`` unless it is there."""
    root = FOLDER / name
    if not root.exists():
        with _scratch(root) as scratch:
            make(scratch)
    return root


@contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    scratch = root.with_name(f".{root.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    yield scratch
    os.replace(scratch, root)
