"""CSV tables, read strictly: every cell is text, and every row is as long as the heading."""

import csv
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from survfuse.cohort.problems import Problems
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, listing

_SEPARATORS = {";": "semicolons", "\t": "tabs"}  # that other programs write in place of commas


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
    InputError for a file that cannot be read as CSV, or whose heading has another separator in place of commas.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            _check_separator(file.readline())
            file.seek(0)
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
            wrong = f"expected {count(len(heading), 'cell')}, found {len(row.cells)}"
            problems.add(wrong, file=path.name, line=row.line)
    return Table(path.name, heading, tuple(whole))


def _check_separator(heading: str) -> None:
    """Raise InputError if something else than commas separates the names in a table's first line."""
    for separator, name in _SEPARATORS.items():
        if "," not in heading and separator in heading:
            raise InputError(f"expected columns separated by commas, found {name}; save it as CSV with commas")
