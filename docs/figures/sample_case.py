"""Draw the README's picture: the sample case's slide, its risk term by term, its months and survival curve.

python docs/figures/sample_case.py [CASE] [SVG]
"""

import sys
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

import survfuse

ROOT = Path(__file__).resolve().parents[2]
WIDTH, HEIGHT, TOP, BOTTOM = 780, 280, 62, 232
INK, FAINT, RISE, FALL, TISSUE = "#1d2430", "#7a8494", "#b5432a", "#1d6fa5", "#0b7a3e"
STYLE = (
    f"text{{font:12px system-ui,sans-serif;fill:{INK}}}"
    f".head{{font-weight:600}}.faint{{fill:{FAINT}}}.end{{text-anchor:end}}"
)
PIXELS, COLOURS, TILE_UM = 24, 24, 224.0
MARKED, LAST_MONTH = (12, 36, 60), 72


def drawing(prediction: survfuse.Prediction, slide: Path, members: int) -> str:
    """The picture as SVG text; ``slide`` is the file that the tiles come from, ``members`` the ensemble's size."""
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff" stroke="#d9dde3"/>',
        *slide_panel(prediction, slide, 20),
        *terms_panel(prediction, members, 225),
        *curve_panel(prediction, 545),
    ]
    label = f"Case {prediction.name}: risk {prediction.risk:+.2f}, {prediction.months:.0f} months"
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}"'
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" {box}>', f"<style>{STYLE}</style>"]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, kind: str = "") -> str:
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{style}>{escape(words, quote=False)}</text>'


def slide_panel(prediction: survfuse.Prediction, slide: Path, left: float) -> Iterator[str]:
    """The slide in coarse pixels; the more attention a tissue tile gets, the more solid the square around it."""
    assert prediction.attention is not None and prediction.coordinates is not None
    with openslide.OpenSlide(slide) as opened:
        width, height = opened.dimensions
        image = opened.get_thumbnail((480, 640))
        side = TILE_UM / float(opened.properties[openslide.PROPERTY_NAME_MPP_X])
    scale = (BOTTOM - TOP) / height
    yield text(left, 30, "1  The case", "head")
    yield text(left, 48, f"{len(prediction.attention)} tissue tiles of the slide", "faint")
    yield from mosaic(image, left, scale * width)
    for (x, y), share in zip(prediction.coordinates.tolist(), prediction.attention.tolist(), strict=True):
        strength = 0.25 + 0.75 * share / prediction.attention.max()
        across, down = (scale * (min(start + side, end) - start) - 2 for start, end in ((x, width), (y, height)))
        yield (
            f'<rect x="{left + scale * x + 1:.1f}" y="{TOP + scale * y + 1:.1f}" width="{across:.1f}" '
            f'height="{down:.1f}" fill="none" stroke="{TISSUE}" stroke-width="2" opacity="{strength:.2f}"/>'
        )
    first = {stage: note.text for stage, note in reversed(prediction.notes)}
    yield text(left, BOTTOM + 20, f"and {first['expression'].split(' of ')[0]},", "faint")
    yield text(left, BOTTOM + 36, f"{first['clinical'].split(' of ')[0]} clinical variables", "faint")


def mosaic(image: Image.Image, left: float, width: float) -> Iterator[str]:
    """``image`` as one path for each of a few colours, ``width`` wide."""
    rows = round(PIXELS * image.height / image.width)
    coarse = image.convert("RGB").resize((PIXELS, rows), Image.Resampling.BOX).quantize(COLOURS)
    palette, places = coarse.getpalette() or [], np.asarray(coarse)
    yield f'<g transform="translate({left:.1f} {TOP}) scale({width / PIXELS:.3f})" shape-rendering="crispEdges">'
    for colour in np.unique(places).tolist():
        red, green, blue = palette[3 * colour : 3 * colour + 3]
        yield f'<path fill="#{red:02x}{green:02x}{blue:02x}" d="{"".join(runs(places == colour))}"/>'
    yield "</g>"


def runs(marked: np.ndarray) -> Iterator[str]:
    """Horizontal stretches of the pixels in ``marked`` [rows, columns], as parts of a path."""
    for y, row in enumerate(marked.tolist()):
        x = 0
        for inside, stretch in groupby(row):
            length = len(list(stretch))
            if inside:
                yield f"M{x} {y}h{length}v1h-{length}z"
            x += length


def terms_panel(prediction: survfuse.Prediction, members: int, left: float) -> Iterator[str]:
    """The risk as a sum: a bar for the baseline and for each term, each starting where the previous one ends."""
    rows: list[tuple[str, float]] = [("baseline", prediction.baseline), *prediction.terms.items()]
    ends = np.cumsum([0.0, *(value for _, value in rows)])
    low, high = min(ends.min(), 0.0), max(ends.max(), 0.0)
    start, room = left + 112, 140.0

    def at(risk: float) -> float:
        return start + room * float((risk - low) / (high - low))

    step = (BOTTOM - TOP) / (len(rows) + 1)
    yield text(left, 30, "2  Its risk", "head")
    yield text(left, 48, f"{len(prediction.member_risks)} of {members} members, summed", "faint")
    yield f'<path d="M{at(0):.1f} {TOP}V{BOTTOM}" stroke="#d9dde3"/>'
    for place, (name, value) in enumerate(rows):
        y = TOP + step * place
        begin, end = sorted((at(ends[place]), at(ends[place + 1])))
        colour = RISE if value > 0 else FALL
        yield text(left, y + 13, name)
        yield f'<rect x="{begin:.1f}" y="{y + 2:.1f}" width="{max(end - begin, 1):.1f}" height="14" fill="{colour}"/>'
        yield text(left + 300, y + 13, f"{value:+.2f}".replace("-", "−"), "end")
    y = TOP + step * len(rows)
    yield text(left, y + 15, "risk", "head")
    yield f'<circle cx="{at(prediction.risk):.1f}" cy="{y + 10:.1f}" r="5" fill="{INK}"/>'
    yield text(left + 300, y + 15, f"{prediction.risk:+.2f}".replace("-", "−"), "head end")
    yield text(left, BOTTOM + 20, "below 0: a lower risk than the cohort's mean", "faint")


def curve_panel(prediction: survfuse.Prediction, left: float) -> Iterator[str]:
    """The months, and the survival curve with some of its values."""
    months = np.arange(LAST_MONTH + 1)
    survival = prediction.survival(months)

    def place(month: float, share: float) -> tuple[float, float]:
        return left + 40 + 165 * month / LAST_MONTH, BOTTOM - (BOTTOM - TOP) * share

    yield text(left, 30, "3  Its months", "head")
    beyond = ", beyond the last event" if prediction.beyond else ""
    yield text(left, 48, f"{prediction.months:.0f} months{beyond}", "faint")
    yield f'<path d="M{left + 40} {TOP}V{BOTTOM}h165" fill="none" stroke="{FAINT}"/>'
    for share in (0.0, 0.5, 1.0):
        yield text(left + 34, place(0, share)[1] + 4, f"{share:.0%}", "faint end")
    points = " ".join(
        "{:.1f},{:.1f}".format(*place(at, share)) for at, share in zip(months.tolist(), survival.tolist(), strict=True)
    )
    yield f'<polyline points="{points}" fill="none" stroke="{FALL}" stroke-width="2"/>'
    for month, share in zip(MARKED, prediction.survival(MARKED), strict=True):
        x, y = place(month, float(share))
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{FALL}"/>'
        yield text(x - 15, y + 20, f"{share:.0%}")
        yield text(x - 7, BOTTOM + 16, str(month), "faint")
    yield text(left + 40, BOTTOM + 36, "event-free survival by month", "faint")


def main() -> None:
    case = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "test" / "input" / "interf0"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).with_name("sample-case.svg")
    (slide,) = (case / "images" / "bladder-cancer-tissue-biopsy-wsi").iterdir()
    model = survfuse.demonstration(device="cpu")
    members = len(model.bundle.manifest.members)
    target.write_text(drawing(model.predict(case), slide, members), encoding="utf-8")


if __name__ == "__main__":
    main()
