"""Tables of parts of a risk, each with a bar from zero and its spread."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from survfuse.explanation.words import decimals, signed

_WIDTH, _HEIGHT = 200, 16  # units of a bar's picture, which is stretched over its cell
_FEWEST = 3  # decimals: with two, a sum of rounded parts would often miss the rounded sum


@dataclass(frozen=True)
class Row:
    """A row of a table: its names, and the part that the bar shows."""

    cells: Sequence[str]  # text before the bar
    value: float
    sd: float | None = None
    told: bool = True  # from zero
    total: bool = False  # whether it is a sum, set off from its parts


def bar_table(heading: Sequence[str], rows: Iterable[Row], caption: str) -> str:
    """A table with a bar in each row, to a common scale; text is escaped."""
    listed = list(rows)
    largest = max((abs(row.value) + (row.sd or 0.0) for row in listed), default=0.0) or 1.0
    places = max(_FEWEST, decimals(max((abs(row.value) for row in listed), default=0.0)))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heading)
    head += '<th scope="col" class="number">risk</th><th scope="col" class="bar">lowers ◂ 0 ▸ raises</th>'
    body = "".join(_row(row, largest, places) for row in listed)
    return (
        f'<div class="scroll"><table class="bars"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _row(row: Row, largest: float, places: int) -> str:
    first, *others = row.cells
    cells = f'<th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in others)
    untold = "" if row.told else ' <abbr title="not told from zero">≈ 0</abbr>'
    kind = ' class="total"' if row.total else ""
    number = f'<td class="number">{signed(row.value, row.sd, places)}{untold}</td>'
    return f'<tr{kind}>{cells}{number}<td class="bar">{_bar(row, largest)}</td></tr>'


def _bar(row: Row, largest: float) -> str:
    """The bar as SVG: filled if it is told from zero, an outline if not, with a line for ± the spread."""
    middle, unit = _WIDTH / 2.0, (_WIDTH / 2.0 - 2.0) / largest
    end = middle + unit * row.value
    kind = ("raises" if row.value > 0.0 else "lowers") + ("" if row.told else " untold")
    left, width = min(middle, end), max(abs(end - middle), 0.5)
    shapes = f'<line class="zero" x1="{middle}" x2="{middle}" y1="0" y2="{_HEIGHT}"/>'
    shapes += f'<rect class="{kind}" x="{left:.1f}" y="3" width="{width:.1f}" height="{_HEIGHT - 6}"/>'
    if row.sd is not None:
        low, high = end - unit * row.sd, end + unit * row.sd
        shapes += f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{_HEIGHT / 2}" y2="{_HEIGHT / 2}"/>'
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" aria-hidden="true">{shapes}</svg>'
