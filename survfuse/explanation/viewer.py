"""The slide viewer of an explanation's page: a canvas, its layers and what it shows, as HTML and JSON."""

import base64
import json
from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from survfuse.explanation.attribution import Parts
from survfuse.explanation.colours import COLOURS, LOWERS, NEUTRAL, PALER, RAISES, Rgb, colour_limit
from survfuse.explanation.pictures import Pictures
from survfuse.explanation.ranking import ranks, told_from_zero
from survfuse.explanation.words import signed
from survfuse.runtime.arrays import Floats
from survfuse.slide.tile_places import TilePlaces

# Of the attention that a tile would have if all had the same: where the scale ends unless a tile has more.
_LEAST_SCALE = 2.0
_ATTENDED: Rgb = (68, 40, 110)

_KEYS = (
    "Click the picture, or move to it with the tab key; then the wheel zooms (elsewhere with Ctrl), dragging pans. "
    "Keys: arrows pan, + and − zoom, 0 shows the whole slide, N and P go to the next and previous tile by rank, "
    "Home and End to the first and last, Esc leaves the tile."
)


def viewer_html(places: TilePlaces, parts: Parts, attention: Floats | None, pictures: Pictures | None) -> str:
    """The viewer of N tiles at ``places``; without ``pictures`` on a plain background."""
    values = parts.values
    limit = colour_limit(values)
    scale = _attention_scale(attention)
    layers = [("contribution", "contribution", True), ("grid", "tile grid", True)]
    if attention is not None:
        layers.insert(1, ("attention", "attention", False))
    if pictures is not None:
        layers = [("slide", "slide", True), ("tissue", "tissue outline", True), *layers]
    boxes = "".join(
        f'<label><input type="checkbox" id="layer-{key}"{" checked" if on else ""}> {name}</label>'
        for key, name, on in layers
    )
    picture = ""
    if pictures is not None:
        source = data_uri(pictures.whole)
        picture = f'<img id="whole" src="{source}" alt="The slide" class="still">'
    data = viewer_data(places, parts, attention, pictures)
    return (
        '<div class="viewer" id="viewer">'
        f'<div class="controls" role="group" aria-label="Layers and zoom">{boxes}'
        '<label>strength <input type="range" id="strength" min="10" max="100" value="65"></label>'
        '<span class="buttons"><button type="button" id="zoom-in" aria-label="Zoom in">+</button>'
        '<button type="button" id="zoom-out" aria-label="Zoom out">−</button>'
        '<button type="button" id="zoom-fit">whole slide</button></span></div>'
        '<canvas id="view" tabindex="0" role="application" aria-label="Map of the tiles on the slide" '
        'aria-describedby="view-keys"></canvas>'
        f'{picture}<p id="view-tile" class="readout" aria-live="polite">No tile chosen.</p>'
        f"{_legend(limit, scale, parts.spread is not None)}"
        f'<p id="view-keys" class="small controls-note">{escape(_KEYS)}</p></div>'
        f'<script type="application/json" id="tile-data">{script_json(data)}</script>'
    )


def viewer_data(
    places: TilePlaces, parts: Parts, attention: Floats | None, pictures: Pictures | None
) -> Mapping[str, object]:
    """What the viewer draws, for JSON; attention is relative to that of tiles that all have the same."""
    relative = attention * len(attention) if attention is not None else None
    return {
        "size": list(places.size),
        "side": list(places.side),
        "mpp": list(places.mpp) if places.mpp is not None else None,
        "x": places.origins[:, 0].tolist(),
        "y": places.origins[:, 1].tolist(),
        "value": _short(parts.values),
        "sd": _short(parts.spread) if parts.spread is not None else None,
        "told": told_from_zero(parts).astype(int).tolist(),
        "rank": ranks(parts.values).tolist(),
        "attention": _short(relative) if relative is not None else None,
        "outline": [polygon.ravel().tolist() for polygon in pictures.outline] if pictures is not None else [],
        "limit": colour_limit(parts.values),
        "attended": _attention_scale(attention),
        "colours": {
            "lowers": COLOURS[LOWERS],
            "neutral": NEUTRAL,
            "raises": COLOURS[RAISES],
            "attended": _ATTENDED,
            "paler": PALER,
        },
    }


def script_json(value: object) -> str:
    """``value`` as JSON that is safe within a script element: it cannot end it, whatever it holds.

    >>> script_json("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII, so without U+2028 and U+2029
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def data_uri(jpeg: bytes) -> str:
    """A JPEG file as a page carries it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"


def _short(values: NDArray[np.floating]) -> list[float]:
    """Numbers to six significant digits."""
    return [float(f"{value:.6g}") for value in values.tolist()]


def _attention_scale(attention: Floats | None) -> float | None:
    """Where the scale of relative attention ends."""
    return max(_LEAST_SCALE, float(attention.max()) * len(attention)) if attention is not None else None


def _legend(limit: float, attended: float | None, spread: bool) -> str:
    edge = signed(limit).removeprefix("+")
    contribution = (
        '<div class="key"><span class="scale contribution" aria-hidden="true"></span>'
        f'<span class="ends"><span>−{edge}</span><span>0</span><span>+{edge}</span></span>'
        "<span>contribution to the risk: blue lowers it, red raises it</span></div>"
    )
    if spread:
        contribution += (
            '<div class="key"><span class="swatches" aria-hidden="true"><i class="told"></i><i class="pale"></i></span>'
            "<span>framed: told from zero; paler, without a frame: not told from zero</span></div>"
        )
    if attended is None:
        return f'<div class="legend">{contribution}</div>'
    return (
        f'<div class="legend">{contribution}<div class="key"><span class="scale attention" aria-hidden="true"></span>'
        f'<span class="ends"><span>0</span><span>{attended:.3g}</span></span>'
        "<span>attention: 1 is what each tile has if all have the same</span></div></div>"
    )
