"""The parts of a case's risk as a CSV table: kind, name, value, sd."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from survfuse.explanation.attribution import Parts
from survfuse.explanation.explanation import Explanation
from survfuse.networks.terms import TIMES, ascii_name
from survfuse.runtime.files import encodable, write_text
from survfuse.runtime.spreadsheet import cell

HEADING = ("kind", "name", "value", "sd")
JOINT = {2: "pair", 3: "triple", 4: "quadruple"}  # by the number of modalities that a joint part is of

Row = tuple[str, str, str, str]


def write_contributions(path: Path, explanation: Explanation) -> None:
    """Write every part of the risk to ``path``, whole or not at all; the values sum to the risk.

    A row has a kind (baseline, tile, vector, gene, variable, or pair, triple or quadruple of modalities), a name, a
    value in units of the risk, and its spread over members of a family, empty if no family has several. Tiles are named
    by their number from 1, as in tiles.geojson. Names that a spreadsheet could compute begin with an apostrophe.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(HEADING)
    writer.writerows(rows(explanation))
    write_text(path, encodable(table.getvalue()))


def rows(explanation: Explanation) -> Iterator[Row]:
    """The table's rows: the baseline, tiles, vector, genes, variables, joint parts. Numbers keep every digit."""
    parts = explanation.attribution
    yield from _rows("baseline", [explanation.reference], parts.baseline)
    if parts.tiles is not None:
        yield from _rows("tile", [str(number + 1) for number in range(len(parts.tiles.values))], parts.tiles)
    if parts.vector is not None:
        yield from _rows("vector", ["slide-level vector"], parts.vector)
    if parts.genes is not None:
        yield from _rows("gene", explanation.genes, parts.genes)
    if parts.variables is not None:
        yield from _rows("variable", explanation.variables, parts.variables)
    for name, joint in parts.joint.items():
        yield from _rows(JOINT[name.count(TIMES) + 1], [ascii_name(name)], joint)


def _rows(kind: str, names: Sequence[str], parts: Parts) -> Iterator[Row]:
    spread = [""] * len(names) if parts.spread is None else map(repr, parts.spread.tolist())
    for name, value, sd in zip(names, parts.values.tolist(), spread, strict=True):
        yield kind, cell(name), repr(value), sd
