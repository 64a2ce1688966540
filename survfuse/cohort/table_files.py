"""The cells of a table in any of the formats that people keep tables in, all as text.

CSV with commas, semicolons, tabs or bars, also packed by gzip; Excel's workbooks; Parquet. What a format adds is taken
off: byte-order marks, quotes, comment lines at the beginning (GDC, cBioPortal), the missing name of R's row names.
"""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import ParseError
from zipfile import BadZipFile, ZipFile

from survfuse.runtime.errors import InputError, brief, check_extra
from survfuse.runtime.files import spelt_number
from survfuse.runtime.log import progress, stage

_SEPARATORS = (",", ";", "\t", "|")
csv.field_size_limit(1 << 30)  # a heading of all genes is one cell of a table with another separator
_SAMPLE = 20  # lines by which a separator is recognised
_GZIP, _ZIP, _UTF16 = b"\x1f\x8b", b"PK\x03\x04", (b"\xff\xfe", b"\xfe\xff")
_EXCEL, _PARQUET = (".xlsx", ".xlsm"), (".parquet", ".pq")
_OLD_EXCEL = ".xls"
_FORMULA = re.compile(rb"<([\w.-]+:)?f[\s/>]")  # an element of a workbook's XML, of any namespace's prefix
_LONGEST_TAG = 100  # bytes


class TableRow(NamedTuple):
    """One row of a table."""

    line: int  # of the file, from 1; the last one if a cell spans several
    cells: tuple[str, ...]  # without blanks around them


class Cells(NamedTuple):
    """The heading of a table and its other rows, as they are: rows may differ in length."""

    heading: tuple[str, ...]
    rows: list[TableRow]
    separator: str | None  # of text; None of a format that needs none


def read_cells(path: Path) -> Cells:
    """Every cell of the table in a file, as text.

    A number of a workbook or of Parquet is spelt as Python spells it, a whole one without a point; an empty cell is
    "". Only a workbook's first sheet is read; the log says so if there are more. Raises InputError for a file that
    cannot be read as its name or content promises.
    """
    try:
        if path.suffix.lower() in _EXCEL:
            heading, *rows = _workbook(path) or [TableRow(1, ())]
            return Cells(heading.cells, rows, None)
        if is_parquet(path):
            return _parquet(path)
        if path.suffix.lower() == _OLD_EXCEL:
            raise InputError("is a workbook of Excel before 2007; save it as .xlsx or CSV")
        return _delimited(text_of(path))
    except OSError as cause:
        raise InputError(f"cannot be read ({cause.strerror or cause})") from cause


def text_of(path: Path) -> str:
    """The text of a file: UTF-8, with a byte-order mark or without, or UTF-16 with one; unpacked if packed by gzip.

    Comment lines at the beginning are blank. Raises InputError for any other content.
    """
    data = path.read_bytes()
    try:
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
        if data.startswith(_ZIP):
            raise InputError(
                "cannot be read as CSV: it is a workbook or an archive; name it as such, or save it as CSV"
            )
        text = data.decode("utf-16" if data.startswith(_UTF16) else "utf-8-sig")
    except UnicodeDecodeError as cause:
        raise InputError(f"cannot be read as CSV: it is no UTF-8 text; save it as CSV UTF-8 ({cause})") from cause
    except (EOFError, zlib.error, gzip.BadGzipFile) as cause:
        raise InputError(f"cannot be unpacked ({cause})") from cause
    if "\0" in text:
        raise InputError("cannot be read as CSV: it has characters of code 0, which no text has")
    return _without_comments(text)


def separator_of(text: str) -> str:
    """The character that separates the cells of the table in ``text``.

    That by which most of the first lines are as long as the heading, or the next but one name; of several, the one
    that makes most cells.

    >>> separator_of("patient;age, years;sex"), separator_of("id,stage" + chr(10) + "1,a;b"), separator_of("patient")
    (';', ',', ',')
    """
    lines = [line for line in text[: 1 << 20].splitlines()[: 4 * _SAMPLE] if line.strip()][:_SAMPLE]
    return max(_SEPARATORS, key=lambda separator: (*_fit(lines, separator), -_SEPARATORS.index(separator)))


def _fit(lines: Sequence[str], separator: str) -> tuple[float, int]:
    """How well a separator fits: the share of rows that are as long as the heading, and the heading's cells."""
    try:
        rows = list(csv.reader(lines, delimiter=separator))
    except csv.Error:  # a cell too long for one: said where the table is read
        return 0.0, 0
    cells = len(rows[0]) if rows else 0
    if cells < 2:
        return 0.0, cells
    alike = sum(len(row) in (cells, cells + 1) for row in rows)
    return round(alike / len(rows), 1), cells


def _without_comments(text: str) -> str:
    """``text`` with blank lines in place of those that begin with # before the heading.

    The last of them is the heading itself if it has more cells than the line after it, or as many, and more than one.
    """
    start, last = 0, 0
    while text.startswith("#", start):
        end = text.find("\n", start)
        if end < 0:  # nothing but comments: then the last one is the heading
            return text
        last, start = start, end + 1
    if start == 0:
        return text
    first = text[start : text.find("\n", start)] if "\n" in text[start:] else text[start:]
    separator = separator_of(text[last:].removeprefix("#"))  # of the first line alone, a decimal comma may be one
    cells = first.count(separator)
    if cells and text[last : start - 1].count(separator) >= cells and _is_data(first, separator):
        start = last
        return "\n" * text.count("\n", 0, start) + text[start:].removeprefix("#")
    return "\n" * text.count("\n", 0, start) + text[start:]


def _is_data(line: str, separator: str) -> bool:
    """Whether a line has numbers, with decimal points or commas, as a heading hardly does."""
    return any(spelt_number(cell.replace(",", ".", 1)) is not None for cell in line.split(separator))


def is_text(path: Path) -> bool:
    """Whether a file's name says that its table is text."""
    return path.suffix.lower() not in (*_EXCEL, *_PARQUET, _OLD_EXCEL)


def is_parquet(path: Path) -> bool:
    """Whether a file's name says that its table is Parquet."""
    return path.suffix.lower() in _PARQUET


def delimited_rows(text: str, separator: str) -> Iterator[TableRow]:
    """The rows of a table of text, one at a time; raises InputError where it is not CSV."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            if cells:
                yield TableRow(reader.line_num, tuple(cell.strip() for cell in cells))
    except csv.Error as cause:
        raise InputError(f"cannot be read as CSV (line {reader.line_num}: {cause})") from cause


def _delimited(text: str) -> Cells:
    separator = separator_of(text)
    heading, *rest = list(delimited_rows(text, separator)) or [TableRow(1, ())]
    longer = bool(rest) and all(len(row.cells) == len(heading.cells) + 1 for row in rest)
    if longer and not any(row.cells[-1] for row in rest):
        rest = [TableRow(row.line, row.cells[:-1]) for row in rest]
    elif longer and separator != ",":
        return Cells(("", *heading.cells), rest, separator)
    return Cells(heading.cells, rest, separator)


def _workbook(path: Path) -> list[TableRow]:
    """The rows of a workbook's first sheet."""
    check_extra("tables", f"reading {path.name}")
    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            sheet, *others = book.worksheets
            every = progress(sheet.iter_rows(values_only=True), sheet.max_row or 0, "tables")
            rows = [
                TableRow(number, tuple(spelt(cell) for cell in cells)) for number, cells in enumerate(every, start=1)
            ]
        finally:
            book.close()
        if _may_have_formulas(path):
            _check_formulas(path, rows)
    except (
        BadZipFile,
        InvalidFileException,
        ParseError,
        KeyError,
        ValueError,
        TypeError,
        EOFError,
        zlib.error,
    ) as cause:
        raise InputError(f"cannot be read as a workbook ({cause})") from cause
    if others:
        stage("tables", f"{path.name}: read sheet {sheet.title} of {len(others) + 1}")
    filled = [row for row in rows if any(row.cells)]
    width = max((_filled(row.cells) for row in filled[:1]), default=0)
    return [TableRow(row.line, row.cells[: max(width, _filled(row.cells))]) for row in filled]


def _may_have_formulas(path: Path) -> bool:
    """Whether a workbook's XML has a formula's element anywhere: without one, the workbook need not be read again."""
    with ZipFile(path) as archive, suppress(RuntimeError):  # of a part that is encrypted, or packed in another way
        for name in archive.namelist():
            with archive.open(name) as file:
                end = b""
                while part := file.read(1 << 20):
                    if b"\0" in part or _FORMULA.search(end + part):  # XML in UTF-16, or a picture: unknown
                        return True
                    end = part[-_LONGEST_TAG:]
        return False
    return True


def _check_formulas(path: Path, rows: Sequence[TableRow]) -> None:
    """Raise InputError for a formula whose value the workbook does not keep: its cell in ``rows`` is empty."""
    from openpyxl import load_workbook

    book = load_workbook(path, read_only=True)
    try:
        for row, formulas in zip(rows, book.worksheets[0].iter_rows(values_only=True), strict=False):
            for cell, formula in zip(row.cells, formulas, strict=False):
                if not cell and isinstance(formula, str) and formula.startswith("="):
                    raise InputError(
                        f"line {row.line}: the formula {brief(formula)} has no stored value; save the workbook in a "
                        "spreadsheet program, or as CSV"
                    )
    finally:
        book.close()


def _filled(cells: Sequence[str]) -> int:
    """How many cells a row has up to its last one that is not empty."""
    return max((place for place, cell in enumerate(cells, start=1) if cell), default=0)


def _parquet(path: Path) -> Cells:
    check_extra("tables", f"reading {path.name}")
    from survfuse.cohort.parquet_columns import parquet_columns

    heading, columns = parquet_columns(path)
    cells = [[spelt(value) for value in column.to_pylist()] for column in columns]
    return Cells(heading, [TableRow(number, row) for number, row in enumerate(zip(*cells, strict=True), 1)], None)


def spelt(value: object) -> str:
    """A cell's value as text.

    >>> spelt(None), spelt(3.0), spelt(0.1), spelt(True), spelt(" x ")
    ('', '3', '0.1', 'True', 'x')
    """
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, datetime | date):
        return value.isoformat(sep=" ") if isinstance(value, datetime) else value.isoformat()
    return str(value).strip()
