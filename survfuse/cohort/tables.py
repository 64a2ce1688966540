"""Tables, read strictly: every cell is text, and every row is as long as the heading."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from survfuse.cohort.decimal_commas import with_points
from survfuse.cohort.headings import NAMING, plain_name
from survfuse.cohort.problems import Problems
from survfuse.cohort.table_files import TableRow, read_cells
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, listing


@dataclass(frozen=True)
class Table:
    """A table with a heading; all rows are as long as it."""

    name: str  # of the file
    heading: tuple[str, ...]
    rows: tuple[TableRow, ...]

    def columns(self, spellings: Mapping[str, Sequence[str]], optional: Container[str] = ()) -> dict[str, int]:
        """The place of each column of ``spellings``, whose names are given in lower case.

        Raises InputError that lists the columns that occur more than once, and those that are missing unless they are
        ``optional``.
        """
        places: dict[str, int] = {}
        wrong = []
        for column, names in spellings.items():
            same = [place for place, name in enumerate(self.heading) if name.lower() in names]
            if len(same) > 1:
                wrong.append(f"the column {' or '.join(names)} occurs more than once")
            elif same:
                places[column] = same[0]
            elif column not in optional:
                wrong.append(f"the column {' or '.join(names)} is missing")
        if wrong:
            raise InputError(f"{'; '.join(wrong)} (found {listing(filter(None, self.heading)) or 'no columns'})")
        return places


def read_table(path: Path, problems: Problems) -> Table:
    """The table in a file of any format that ``read_cells`` takes.

    Blank rows are skipped. A row that is not as long as the heading is left out and added to ``problems``. Numbers with
    a decimal comma get a point, in tables with another separator than commas. Raises InputError for a file that cannot
    be read.
    """
    found = read_cells(path)
    heading, whole = found.heading, []
    for row in filter(lambda row: any(row.cells), found.rows):
        cells = row.cells
        if found.separator is None:  # a workbook's rows end with their last cell that is not empty
            cells += ("",) * (len(heading) - len(cells))
        if len(cells) == len(heading):
            whole.append(TableRow(row.line, cells))
        else:
            wrong = f"expected {count(len(heading), 'cell')}, found {len(cells)}"
            problems.add(wrong, file=path.name, line=row.line)
    if whole and found.separator not in (",", None):
        columns = _with_points(heading, list(zip(*(row.cells for row in whole), strict=True)))
        lines = [row.line for row in whole]
        whole = [TableRow(line, cells) for line, cells in zip(lines, zip(*columns, strict=True), strict=True)]
    return Table(path.name, heading, tuple(whole))


def _with_points(heading: Sequence[str], columns: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """``columns`` with decimal points, but for those that name patients or files."""
    places = [place for place, name in enumerate(heading) if plain_name(name) not in NAMING]
    pointed = dict(zip(places, with_points([columns[place] for place in places]), strict=True))
    return [pointed.get(place, column) for place, column in enumerate(columns)]
