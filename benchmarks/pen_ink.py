"""Pen ink and tissue told apart by colour, on the sample slide's picture at 7 µm per pixel: README.md's tables.

python benchmarks/pen_ink.py

Colours of pens are drawn at random, a third with the seed that the limits were chosen by, the rest with others. Each is
drawn around the tissue as an outline of about one tile's width, 0.7 to 1.3 times as thick (Lambert 1760).
"""

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from survfuse.runtime.arrays import Bools, Pixels
from survfuse.slide.stained import colours_of, doubt, stained_in

SLIDE = Path(__file__).parent.parent / "test/input/interf0/images/bladder-cancer-tissue-biopsy-wsi/3S_001_HE.tif"
TILE, MARGIN, LINE, OUTSIDE = 32, 64, 34, 21  # pixels; the outline begins OUTSIDE pixels within the border
CHOSEN, HELD_OUT, DRAWS = (0,), (3, 4), 40
# Absorbances of red, green and blue by haematoxylin and eosin (Ruifrok and Johnston 2001; Macenko et al. 2009).
STAINS = {
    "Ruifrok": np.array([[0.65, 0.704, 0.286], [0.072, 0.99, 0.105]]),
    "Macenko": np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]]),
}


def main() -> None:
    picture = np.array(Image.open(SLIDE).convert("RGB").reduce(14))
    glass = np.pad(picture, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=245)
    expected = tiles(stained_in(colours_of(glass)).tissue)
    for seeds in (CHOSEN, HELD_OUT):
        print(f"seeds {seeds}")
        counts = {pen: Counter[str]() for pen in pens(np.random.default_rng(0))}
        for seed in seeds:
            random = np.random.default_rng(seed)
            for _ in range(DRAWS):
                for pen, colour in pens(random).items():
                    counts[pen][outcome(expected, marked(glass, colour))] += 1
        for pen, outcomes in counts.items():
            print(f"  {pen}: {dict(outcomes)}")
    for name, stains in STAINS.items():
        lost = [set_aside(restained(picture, stains, amounts)) for amounts in np.ndindex(3, 3)]
        print(f"{name}: {max(lost):.2%} of the picture taken for ink at most")


def pens(random: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """A colour of each pen, as RGB [3]."""
    red = random.integers((140, 5, 10), (231, 61, 71))
    blue = random.integers((10, 15, 80), (71, 81, 201))
    black = np.clip(random.integers(20, 86) + random.integers(-8, 9, 3), 2, 255)
    most = int(random.integers(70, 171))
    green = np.array([random.integers(5, most - 35), most, random.integers(30, most - 5)])
    return {"red": red, "blue": blue, "black": black, "green": green}


def marked(glass: Pixels, colour: NDArray[np.int64]) -> Pixels:
    """The canvas with an outline in this colour."""
    drawn = np.zeros(glass.shape[:2], dtype=bool)
    drawn[OUTSIDE:-OUTSIDE, OUTSIDE:-OUTSIDE] = True
    drawn[OUTSIDE + LINE : -OUTSIDE - LINE, OUTSIDE + LINE : -OUTSIDE - LINE] = False
    small = np.random.default_rng(0).integers(0, 256, (75, 63), dtype=np.uint8)
    clouds = Image.fromarray(small).resize((glass.shape[1], glass.shape[0]), Image.Resampling.BICUBIC)
    thickness = 0.7 + 0.6 * np.asarray(clouds) / 255
    ink = glass.copy()
    ink[drawn] = (glass * (colour / 255) ** thickness[..., None])[drawn]
    return ink


def outcome(expected: Bools, ink: Pixels) -> str:
    """What becomes of the ``expected`` tiles when the ink is drawn."""
    found = stained_in(colours_of(ink))
    wrong = int((tiles(found.tissue) != expected).sum())
    said = " and warned of" if "dye" in (doubt(found) or "") else ""
    return f"{'no tile' if not wrong else '1 or 2 tiles' if wrong < 3 else 'more tiles'} changed{said}"


def tiles(tissue: Bools) -> Bools:
    """Which tiles [rows, columns] are at least half tissue."""
    rows, columns = (side // TILE for side in tissue.shape)
    blocks = tissue[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE)
    kept: Bools = blocks.mean(axis=(1, 3)) >= 0.5
    return kept


def restained(picture: Pixels, stains: NDArray[np.float64], amounts: tuple[int, ...]) -> Pixels:
    """The picture in other stains, with 0.5, 1 or 1.5 times as much of each."""
    absorbances = -np.log((picture + 1.0) / 256)
    own = np.clip(absorbances @ np.linalg.pinv(STAINS["Macenko"]), 0, None)
    rgb: Pixels = (256 * np.exp(-own * (0.5 + 0.5 * np.array(amounts)) @ stains) - 1).clip(0, 255).astype(np.uint8)
    return rgb


def set_aside(rgb: Pixels) -> float:
    """The share of the pixels taken for ink."""
    shares = colours_of(rgb).set_aside
    return shares.ink + shares.black


if __name__ == "__main__":
    main()
