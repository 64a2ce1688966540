"""How far bf16 autocast moves each encoder's features from fp32, on the sample slide's tiles.

    python benchmarks/encoder_precision.py [NAME ...]

efficientnet-lite0 runs with its real weights, the others, whose weights are gated or large, with random ones whose
every layer speaks (LayerScale drawn from 0.1 to 1 rather than left at 1e-5). All 35 tiles of the grid are encoded,
glass included, where features are small and rounding is felt most; --tiles N takes every so manyth.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from survfuse.runtime.tensors import shapes_only
from survfuse.slide.encoders import Encoder
from survfuse.slide.registry import EMBEDDED, ENCODERS
from survfuse.slide.weights import build_network, load_network

CPU = torch.device("cpu")
CASE = Path(__file__).resolve().parent.parent / "test/input/interf0/images"
SLIDE = CASE / "bladder-cancer-tissue-biopsy-wsi/3S_001_HE.tif"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(ENCODERS))
    parser.add_argument("--tiles", type=int, default=35)
    options = parser.parse_args()
    print(f"{options.tiles} tiles, {torch.get_num_threads()} threads")
    print(f"{'encoder':<20}{'least cosine':>14}{'mean cosine':>14}{'fp32 s/tile':>14}{'bf16 s/tile':>14}")
    for name in options.names:
        encoder = loaded(name)
        tiles = sample_tiles(ENCODERS[name].input_px, options.tiles)
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


def sample_tiles(side: int, count: int) -> torch.Tensor:
    """``count`` of the sample slide's tiles of 224 µm, each of ``side`` × ``side`` pixels: [count, side, side, 3]."""
    # Here, as random networks need no OpenSlide.
    from survfuse.slide.grid import Grid
    from survfuse.slide.pixels import Slide

    with Slide(SLIDE) as slide:
        grid = Grid.over(slide.size, slide.mpp, side, 224 / side)
        origins = grid.origins(np.ones((len(grid.y), len(grid.x)), dtype=bool))
        origins = origins[np.linspace(0, len(origins) - 1, count).astype(int)]
        read = [slide.read((int(x), int(y)), grid.side, (side, side)) for x, y in origins]
    return torch.from_numpy(np.stack(read))


def loaded(name: str) -> Encoder:
    """The encoder with its embedded weights, or with random ones."""
    return Encoder(ENCODERS[name], network_of(name), CPU)


def network_of(name: str, device: torch.device = CPU) -> nn.Module:
    """The encoder's network with its embedded weights, or with random ones that are drawn on ``device``."""
    return load_network(name, None) if name in EMBEDDED else random_network(name, device)


def random_network(name: str, device: torch.device = CPU) -> nn.Module:
    """timm's network with random weights that keep every layer's voice: outputs neither vanish nor explode.

    They are drawn on ``device``, which matters for networks of a thousand million weights.
    """
    with shapes_only():
        network = build_network(ENCODERS[name])
    network.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            if key.endswith("gamma"):
                parameter.uniform_(0.1, 1.0)
            elif parameter.ndim > 1:
                parameter.normal_(0.0, 0.03)
            elif "norm" in key and key.endswith("weight"):
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, 0.1)
    return network


if __name__ == "__main__":
    main()
