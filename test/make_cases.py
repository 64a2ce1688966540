"""Make the sample cases of test/input from a real slide: ``make sample-cases``.

    interf0   pyramidal TIFF of the slide, its tissue mask, expression, clinical variables
    interf1   tile features of the same slide in place of slide and mask, another patient

The patients are simulated; the slide is OpenSlide's CMU-1-Small-Region (CC0).
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyvips

from survfuse.cli.main import main as survfuse
from survfuse.cohort.simulate import simulate
from survfuse.cohort.simulation_file import SIMULATION_FILE
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.stained import stained_tissue
from survfuse.tasks.chimera3 import TASK

PATIENTS_SEED = 99
PLACES = {name: socket.place for name, socket in TASK.sockets.items()}  # by modality, and "mask"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path, help="the Aperio slide cmu_small_region.svs")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cohort = Path(scratch) / "cohort"
        simulate(cohort, number=9, seed=PATIENTS_SEED, tiles=1)
        hazards = json.loads((cohort / SIMULATION_FILE).read_text())["log_hazard"]
        # The lowest and the highest true hazard of nine, so that a risk turned round would show.
        for interface, patient in (
            ("interf0", min(hazards, key=hazards.get)),
            ("interf1", max(hazards, key=hazards.get)),
        ):
            shutil.rmtree(options.out / interface, ignore_errors=True)
            write_variables(cohort / "data" / patient, patient, options.out / interface)
    root = options.out / "interf0"
    slide, mask = root / PLACES["slide"] / "3S_001_HE.tif", root / PLACES["mask"] / "3S_001_HE_mask.tif"
    write_slide(options.slide, slide)
    write_mask(slide, mask)
    write_sockets(root, {"slide": slide, "mask": mask})
    features = options.out / "interf1" / PLACES["slide"] / "3S_002_HE.h5"
    features.parent.mkdir(parents=True)
    survfuse(["extract", str(slide), "--mask", str(mask), "--out", str(features)])
    write_sockets(options.out / "interf1", {"slide": features})


def write_slide(source: Path, target: Path) -> None:
    """A pyramidal, tiled TIFF with resolution tags, as the platform's importer leaves one."""
    image = pyvips.Image.new_from_file(str(source))
    per_mm = 1000.0 / float(image.get("aperio.MPP")) if "aperio.MPP" in image.get_fields() else 1000.0 / 0.499
    target.parent.mkdir(parents=True)
    image[:3].copy(xres=per_mm, yres=per_mm).tiffsave(
        str(target), tile=True, tile_width=256, tile_height=256, pyramid=True, compression="jpeg", Q=80, keep="none"
    )


def write_mask(slide: Path, target: Path) -> None:
    """Tissue by saturation at a quarter of the slide's resolution, 0 and 1, pyramidal."""
    with Slide(slide) as opened:
        tissue = stained_tissue(opened, Grid.over(opened.size, opened.mpp, 224, 1.0)).tissue
        across, down = (extent // 4 for extent in opened.size)
    image = pyvips.Image.new_from_array(tissue.astype(np.uint8))
    resized = image.resize(across / tissue.shape[1], vscale=down / tissue.shape[0], kernel="nearest")
    target.parent.mkdir(parents=True)
    resized.tiffsave(
        str(target),
        tile=True,
        pyramid=True,
        compression="deflate",
        region_shrink="nearest",
        tile_width=256,
        tile_height=256,
    )


def write_variables(patient: Path, name: str, root: Path) -> None:
    """Expression and clinical variables of a simulated patient, without the outcome."""
    root.mkdir(parents=True)
    shutil.copy(patient / f"{name}_RNA.json", root / PLACES["rna"])
    variables = json.loads((patient / f"{name}_CD.json").read_text())
    known = {key: value for key, value in variables.items() if key not in TASK.outcome.keys}
    (root / PLACES["clinical"]).write_text(json.dumps(known, indent=1) + "\n")


def write_sockets(root: Path, images: dict[str, Path]) -> None:
    """inputs.json as the platform writes it."""
    sockets = [(TASK.sockets[name], "Image", {"name": path.name}) for name, path in images.items()]
    sockets += [(TASK.sockets[name], "Anything", None) for name in ("rna", "clinical")]
    entries = [
        {
            "pk": number,
            "interface": {
                "slug": socket.slug,
                "kind": kind,
                "super_kind": "Image" if image else "File",
                "relative_path": socket.place,
            },
            "image": image,
            "file": None if image else f"https://grand-challenge.org/media/some-link/{socket.place}",
            "value": None,
        }
        for number, (socket, kind, image) in enumerate(sockets, start=1)
    ]
    (root / "inputs.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    main()
