"""LazySlide on given tiles with given weights, for speed.py: PYTHON lazyslide_extract.py CASE BATCH.

As its documentation has it, with a model of one's own: float32, on the CPU, one process (its workers are processes, and
slower here). What is timed is feature_extraction alone, called once before.
"""

import sys
import time
import warnings
from pathlib import Path

import lazyslide
import material
import numpy as np
import torch
from encode_alone import plain_network
from torchvision.transforms import v2
from wsidata import TileSpec, open_wsi
from wsidata.io import add_tiles

from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.tissue import find_tissue


def main(case: str, batch: str) -> None:
    warnings.filterwarnings("ignore")
    path, mask = (material.only(Path(case), place) for place in (0, 1))
    with Slide(path) as slide:
        grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
        origins = find_tissue(slide, grid, mask, 0.5).origins
    wsi = open_wsi(str(path), store=None)
    spec = TileSpec.from_wsidata(wsi, tile_px=224, mpp=1.0)
    add_tiles(wsi, "tiles", origins, spec, tissue_ids=np.zeros(len(origins), dtype=int))
    network, _ = plain_network("efficientnet-lite0", None)
    normalise = v2.Normalize(mean=[0.5] * 3, std=[0.5] * 3)

    def extract() -> None:
        lazyslide.tl.feature_extraction(
            wsi,
            model=network,
            model_name="efficientnet-lite0",
            transform=v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), normalise]),
            device="cpu",
            amp=False,
            batch_size=int(batch),
            num_workers=0,
            pbar=False,
        )

    extract()
    started = time.perf_counter()
    extract()
    print(f"{len(origins) / (time.perf_counter() - started):.1f} tiles a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
