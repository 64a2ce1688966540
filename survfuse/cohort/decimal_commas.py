"""Numbers with a decimal comma, in tables whose cells something else than a comma separates."""

import re
from collections.abc import Sequence

from survfuse.runtime.errors import InputError

_POINT = re.compile(r"[-+]?[0-9]*\.[0-9]+(e[-+]?[0-9]+)?", re.IGNORECASE)
_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+(e[-+]?[0-9]+)?", re.IGNORECASE)
# What may as well be a whole number with separated thousands.
_POINT_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}\.[0-9]{3}")
_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2},[0-9]{3}")


def with_points(columns: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """``columns`` of cells with a decimal point in each number of a column whose numbers have decimal commas.

    A column of which a number has a point is left as it is, and so is one whose commas may all separate thousands,
    unless another column of the table has commas that cannot. Raises InputError for points that may separate thousands
    in a table with decimal commas.

    >>> with_points([["1,5", "2e-05"], ["1,234", "T1"], ["3.5", "4,5"]])
    [['1.5', '2e-05'], ['1.234', 'T1'], ['3.5', '4,5']]
    >>> with_points([["1,234", "5"]])
    [['1,234', '5']]
    """
    certain = any(_column_has_commas(column, certain=True) for column in columns)
    if certain:
        for column in columns:
            points = [cell for cell in column if _POINT.fullmatch(cell)]
            if points and all(_POINT_THOUSANDS.fullmatch(cell) for cell in points):
                raise InputError(
                    f"{points[0]} may be a fraction or thousands, beside numbers with decimal commas; write it plainly"
                )
    return [
        [cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell for cell in column]
        if certain and _column_has_commas(column)
        else column
        for column in columns
    ]


def have_commas(columns: Sequence[Sequence[str]]) -> bool:
    """Whether numbers in ``columns`` of cells have decimal commas: more of them than a point, of those that tell.

    A comma that may separate thousands does not.

    >>> have_commas([["1,5", "2"], ["2.5", "0,25"]]), have_commas([["1,234", "2"]])
    (True, False)
    """
    cells = [cell for column in columns for cell in column]
    commas = sum(_COMMA.fullmatch(cell) is not None and not _THOUSANDS.fullmatch(cell) for cell in cells)
    return commas > sum(_POINT.fullmatch(cell) is not None for cell in cells)


def _column_has_commas(column: Sequence[str], certain: bool = False) -> bool:
    """Whether numbers of a column have a comma and none has a point; ``certain``: one that is no thousands' comma."""
    commas = [cell for cell in column if _COMMA.fullmatch(cell)]
    if certain:
        commas = [cell for cell in commas if not _THOUSANDS.fullmatch(cell)]
    return bool(commas) and not any(_POINT.fullmatch(cell) for cell in column)
