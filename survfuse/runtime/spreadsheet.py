"""Cells of CSV tables that a spreadsheet shows as they are, and never computes.

A spreadsheet takes a text that begins with =, +, - or @ for a formula, and one with a tab or the end of a line may
begin a new cell. An apostrophe before such a text makes it text again (OWASP, "CSV injection").
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from survfuse.runtime.files import spelt_number, write_text

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # with full width, as Japanese spreadsheets take them
_GUARD = "'"


def cell(text: str) -> str:
    """``text`` as a table's cell, with an apostrophe before what a spreadsheet could compute.

    A plain number stays as it is. A text that looks guarded already is guarded once more, so that ``content`` gives
    every text back.

    >>> cell("=1+1"), cell("-0.5"), cell("-x"), cell("TP53"), cell("'=1+1")
    ("'=1+1", '-0.5', "'-x", 'TP53', "''=1+1")
    """
    return f"{_GUARD}{text}" if _FORMULA.match(text) and spelt_number(text) is None else text


def content(text: str) -> str:
    """The text that ``cell`` made a cell of.

    >>> content("'=1+1"), content("-0.5"), content("'n"), content(cell("'=1+1"))
    ('=1+1', '-0.5', "'n", "'=1+1")
    """
    return text[1:] if text.startswith(_GUARD) and _FORMULA.match(text) else text


def write_table(path: Path, rows: Sequence[Mapping[str, str | float]], columns: Sequence[str] = ()) -> None:
    """Write ``rows`` as CSV, with ``columns`` and every other that any of them has; texts as ``cell`` makes them
    harmless.

    Numbers are written in full: the shortest text that gives the same number back.
    """
    every = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    table = io.StringIO()
    writer = csv.DictWriter(table, list(every), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: cell(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    )
    write_text(path, table.getvalue())
