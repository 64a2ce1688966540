"""Processes that speed.py times: an encoder without the job around it.

alone      tiles read before, then encoded at the best of several batch sizes
plain      read by OpenSlide and encoded one by one in float32, as timm and torch come
route      reading and encoding as the job does them
settings   the encoder on the same tiles in every setting that could be its best
"""

ENCODE_ALONE = "import encode_alone, sys; encode_alone.main(*sys.argv[1:])"


def main(way: str, encoder: str, case: str, bundle: str, number: str = "") -> None:
    from pathlib import Path

    import material
    import torch

    from survfuse.bundle.load import load
    from survfuse.slide.encoders import load_encoder
    from survfuse.slide.grid import Grid
    from survfuse.slide.pixels import Slide
    from survfuse.slide.tissue import find_tissue

    name = "efficientnet-lite0" if encoder == "-" else encoder
    weights = load(Path(bundle)).encoder_weights() if name != "efficientnet-lite0" else None
    root = Path(case)
    with Slide(material.only(root, 0)) as slide:
        grid = Grid.over(slide.size, slide.mpp, 224, 1.0)
        origins = find_tissue(slide, grid, material.only(root, 1), 0.5).origins
        if way == "plain":
            plain(name, weights, slide, origins[: int(number)])
            return
        loaded = load_encoder(name, weights, torch.device("cpu"))
        if way == "route":
            route(slide, grid, origins, loaded)
            return
        tiles = read(slide, grid, origins)
    alone(loaded, tiles) if way == "alone" else settings(name, weights, tiles)


def read(slide, grid, origins):
    import torch

    from survfuse.slide.order import curve_order
    from survfuse.slide.read_ahead import read_ahead

    order = curve_order(*grid.places(origins).T)
    return torch.cat([batch.clone() for batch in read_ahead(slide, grid, origins[order], 224, 64)])


def encode(encoder, tiles, batch: int) -> float:
    """Seconds for all tiles."""
    import time

    import torch

    encoder.batch = batch
    started = time.perf_counter()
    with encoder.autocast():
        for start in range(0, len(tiles), batch):
            encoder(tiles[start : start + batch])
    if encoder.device.type == "cuda":
        torch.cuda.synchronize(encoder.device)
    return time.perf_counter() - started


def alone(encoder, tiles) -> None:
    few = tiles[: min(len(tiles), 8 if encoder.spec.name != "efficientnet-lite0" else 96)]
    encode(encoder, few[:8], 8)
    batches = (8, 16, 32) if encoder.spec.name == "efficientnet-lite0" else (4, 8)
    tried = {batch: min(encode(encoder, few, batch) for _ in range(2)) / len(few) for batch in batches}
    best = min(tried, key=tried.get)
    print("; ".join(f"batch {batch}: {1000 * each:.1f} ms a tile" for batch, each in tried.items()))
    print(f"best {encode(encoder, tiles, best):.3f} s with batch {best}, {encoder.precision}")


def plain_network(name: str, weights):
    """timm's unmodified network: float32, contiguous, nothing folded."""
    import torch

    from survfuse.slide.registry import ENCODERS
    from survfuse.slide.weights import load_network

    network, spec = load_network(name, weights), ENCODERS[name]
    return network.eval(), [torch.tensor(numbers).view(3, 1, 1) for numbers in spec.normalisation]


def plain(name: str, weights, slide, origins) -> None:
    network, (mean, std) = plain_network(name, weights)
    print(f"plain {plain_seconds(network, mean, std, slide, origins):.4f} s a tile")


def plain_seconds(network, mean, std, slide, origins, px: int = 224, device: str = "cpu") -> float:
    """Seconds per tile of reading by OpenSlide, normalising and encoding one tile after another."""
    import time

    import torch

    def one(origin) -> None:
        pixels = plain_tile(slide._slide, origin, px, mean, std)
        with torch.no_grad():
            network(pixels[None].to(device)).cpu()

    one(origins[0])
    started = time.perf_counter()
    for origin in origins.tolist():
        one(origin)
    return (time.perf_counter() - started) / len(origins)


def plain_tile(opened, origin, px: int, mean, std):
    """A tile [3, px, px] of 224 µm as OpenSlide reads it from a slide of 0.5 µm per pixel, normalised."""
    import numpy as np
    import torch

    region = opened.read_region(tuple(origin), 0 if px == 448 else 1, (px, px)).convert("RGB")
    return (torch.from_numpy(np.array(region)).permute(2, 0, 1) / 255.0 - mean) / std


def route(slide, grid, origins, encoder) -> None:
    import time

    from survfuse.slide.encode import tile_features

    tile_features(slide, grid, origins[:16], encoder)
    started = time.perf_counter()
    tile_features(slide, grid, origins, encoder)
    print(f"{len(origins) / (time.perf_counter() - started):.1f} tiles a second")


def settings(name: str, weights, tiles) -> None:
    import copy

    import torch

    from survfuse.slide.encoders import Encoder, load_encoder
    from survfuse.slide.registry import ENCODERS

    made = {"as it runs": load_encoder(name, weights, torch.device("cpu"))}
    network, _ = plain_network(name, weights)
    for layout in (torch.contiguous_format, torch.channels_last):
        other = Encoder(ENCODERS["uni"], torch.nn.Identity(), torch.device("cpu"))  # a spec that changes no layer
        other.network, other._layout = copy.deepcopy(network).to(memory_format=layout), layout
        made[f"unmodified, {layout}".replace("torch.", "")] = other
    batches, threads = (1, 4, 8, 16, 32), torch.get_num_threads()
    print(f"ms per tile by batch size\n\n|  | threads | precision | {' | '.join(map(str, batches))} |\n|{'---|' * 8}")
    for label, encoder in made.items():
        for number in {1, threads}:
            torch.set_num_threads(number)
            for precision in (torch.float32, torch.bfloat16)[: 1 + torch.cpu._is_avx512_bf16_supported()]:
                encoder.precision = precision
                encode(encoder, tiles[:4], 4)
                taken = [
                    min(encode(encoder, tiles, batch) for _ in range(2)) for batch in batches if batch <= len(tiles)
                ]
                cells = " | ".join(f"{1000 * each / len(tiles):.1f}" for each in taken)
                print(f"| {label} | {number} | {precision} | {cells} |".replace("torch.", ""), flush=True)
