"""How far bf16 autocast moves each encoder's features from fp32, on the sample slide's tiles.

    python benchmarks/encoder_precision.py [NAME ...]

efficientnet-lite0 runs with its real weights, the others, whose weights are gated or large, with random ones whose
every layer speaks (LayerScale drawn from 0.1 to 1 rather than left at 1e-5).
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from survfuse.slide.encoders import ENCODERS, Encoder, build_network, load_encoder
from survfuse.slide.pixels import Slide
from survfuse.slide.tiles import Grid
from survfuse.slide.tissue import find_tissue

CASE = Path(__file__).resolve().parent.parent / "test/input/interf0/images"
SLIDE = CASE / "bladder-cancer-tissue-biopsy-wsi/3S_001_HE.tif"
MASK = CASE / "tissue-mask/3S_001_HE_mask.tif"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ENCODERS))
    with Slide(SLIDE) as slide:
        grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
        origins = find_tissue(slide, grid, MASK, 0.5).origins
        tiles = np.stack([slide.read((int(x), int(y)), grid.side, (224, 224)) for x, y in origins])
    print(f"{len(tiles)} tiles, {torch.get_num_threads()} threads")
    print(f"{'encoder':<20}{'least cosine':>14}{'mean cosine':>14}{'fp32 s/tile':>14}{'bf16 s/tile':>14}")
    for name in parser.parse_args().names:
        encoder = loaded(name)
        features, seconds = {}, {}
        for precision in (torch.float32, torch.bfloat16):
            encoder.precision = precision
            with encoder.autocast():
                encoder(tiles[:2])
                started = time.perf_counter()
                features[precision] = encoder(tiles)
                seconds[precision] = (time.perf_counter() - started) / len(tiles)
        cosine = nn.functional.cosine_similarity(*features.values())
        columns = f"{cosine.min():>14.5f}{cosine.mean():>14.5f}"
        print(f"{name:<20}{columns}{seconds[torch.float32]:>14.3f}{seconds[torch.bfloat16]:>14.3f}", flush=True)


def loaded(name: str) -> Encoder:
    if name == "efficientnet-lite0":
        return load_encoder(name, None, torch.device("cpu"))
    torch.manual_seed(0)
    network = build_network(ENCODERS[name])
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("gamma"):
                parameter.uniform_(0.1, 1.0)
            elif parameter.ndim > 1:
                parameter.add_(0.01 * torch.randn_like(parameter))
    return Encoder(ENCODERS[name], network, torch.device("cpu"))


if __name__ == "__main__":
    main()
