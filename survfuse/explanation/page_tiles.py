"""The page's part on the slide: the viewer, and the tiles that raise and lower the risk most."""

from collections.abc import Sequence

from survfuse.explanation.explanation import Explanation
from survfuse.explanation.pictures import Pictures
from survfuse.explanation.record_types import Record, TilePart, Tiles
from survfuse.explanation.viewer import data_uri, viewer_html
from survfuse.explanation.words import round_length, signed
from survfuse.runtime.log import count

_BAR = 0.5  # of a tile's width that its scale bar takes at most


def shown_rows(written: Record) -> list[int]:
    """The rows of the tiles whose pictures the page shows."""
    tiles = written["tiles"]
    return [int(tile["name"]) - 1 for tile in (*tiles["raising"], *tiles["lowering"])] if tiles is not None else []


def tiles_html(explanation: Explanation, written: Record, pictures: Pictures | None) -> str:
    """The part on the slide; empty if the case's risk has no parts of tiles."""
    tiles = written["tiles"]
    if tiles is None:
        return ""
    parts = [
        "<h2>Where on the slide</h2>",
        f"<p>Each of {count(tiles['number'], 'tile')} adds to the risk or takes from it; together "
        f"{signed(tiles['sum'])}. {_told(tiles)}</p>",
    ]
    if explanation.mapped is None:
        parts.append("<p>The places of the tiles are not known, so there is no map of them.</p>")
    else:
        places, contributions = explanation.mapped
        if pictures is None:
            parts.append("<p>The case has tile features without a slide: the map has no pixels.</p>")
        parts.append(viewer_html(places, contributions, explanation.attribution.attention, pictures))
    mapped = explanation.mapped is not None
    for kind, listed in (("raises", tiles["raising"]), ("lowers", tiles["lowering"])):
        parts.append(f"<h3>{_title(kind, listed, pictures, tiles)}</h3>")
        parts.append(_cards(kind, listed, tiles, pictures, mapped) if listed else "<p>None.</p>")
    return "\n".join(parts)


def _told(tiles: Tiles) -> str:
    """How many tiles are told from zero, in a sentence."""
    if tiles["told_from_zero"] is None:
        return "How well they are known is not known: no family of the ensemble has several members."
    if not tiles["told_from_zero"]:
        return "None of them is told from zero: no contribution exceeds its spread."
    return f"Told from zero, with a contribution that exceeds its spread: {tiles['told_from_zero']:,}."


def _title(kind: str, listed: Sequence[TilePart], pictures: Pictures | None, tiles: Tiles) -> str:
    title = {"raises": "Tiles that raise the risk most", "lowers": "Tiles that lower the risk most"}[kind]
    if listed and pictures is not None and (across := _micrometres(tiles)) is not None:
        title += f' <span class="small">(bar: {round_length(_BAR * across):g} µm)</span>'
    return title


def _cards(kind: str, listed: Sequence[TilePart], tiles: Tiles, pictures: Pictures | None, mapped: bool) -> str:
    cards = []
    for tile in listed:
        row = int(tile["name"]) - 1
        picture = ""
        if pictures is not None:
            picture = f'<img src="{data_uri(pictures.tiles[row])}" alt="Tile {row + 1}" width="224" height="224">'
            picture += _scale_bar(tiles)
        untold = "" if tile["told_from_zero"] is not False else " <abbr title='not told from zero'>≈ 0</abbr>"
        button = f' <button type="button" data-tile="{row + 1}">show</button>' if mapped else ""
        cards.append(
            f'<li><div class="edge {kind}">{picture}<p><b>{signed(tile["value"], tile["sd"])}</b>{untold}<br>'
            f"tile {row + 1}, rank {tile['rank']:,}{button}</p></div></li>"
        )
    return f'<ol class="tiles">{"".join(cards)}</ol>'


def _micrometres(tiles: Tiles) -> float | None:
    """How wide a tile is in µm, if its resolution is known."""
    return tiles["side"][0] * tiles["mpp"][0] if tiles["side"] is not None and tiles["mpp"] is not None else None


def _scale_bar(tiles: Tiles) -> str:
    """A bar under a tile's picture, as SVG as wide as the picture; empty if the resolution is not known."""
    across = _micrometres(tiles)
    if across is None:
        return ""
    length = round_length(_BAR * across)
    bar = f'<rect x="0" y="2" width="{100.0 * length / across:.2f}" height="4"/>'
    return f'<svg viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{length:g} µm">{bar}</svg>'
