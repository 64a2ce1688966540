"""CSV tables, read strictly: every cell is text, and every row is as long as the heading."""

import csv
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from survfuse.cohort.problems import Problems
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import is_number
from survfuse.runtime.log import listing


class TableRow(NamedTuple):
    """One row of a table."""

    line: int  # of the file, from 1; the last one if a cell spans several
    cells: tuple[str, ...]  # without blanks around them


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
    """The table in a CSV file, UTF-8 with or without a byte-order mark.

    Blank rows are skipped. A row that is not as long as the heading is left out and added to ``problems``. Raises
    InputError for a file that cannot be read as CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            heading = tuple(cell.strip() for cell in next(reader, []))
            rows = [TableRow(reader.line_num, tuple(cell.strip() for cell in cells)) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as cause:
        raise InputError(f"cannot be read as CSV ({cause})") from cause
    except OSError as cause:
        raise InputError(f"cannot be read ({cause.strerror or cause})") from cause
    whole = []
    for row in filter(lambda row: any(row.cells), rows):
        if len(row.cells) == len(heading):
            whole.append(row)
        else:
            problems.add(f"expected {len(heading)} cells, found {len(row.cells)}", file=path.name, line=row.line)
    return Table(path.name, heading, tuple(whole))


def cell_number(text: str) -> float | None:
    """The finite number that a cell spells, or None.

    >>> cell_number(" 12.5 "), cell_number("1e2"), cell_number("nan"), cell_number("1_0")
    (12.5, 100.0, None, None)
    """
    if "_" in text or not text.isascii():  # which Python would read as digits, too
        return None
    try:
        number = float(text)
    except ValueError:
        return None
    return number if is_number(number) else None
