"""Numbers with a decimal comma, in tables whose cells something else than a comma separates."""

import re
from collections.abc import Sequence

from survfuse.runtime.errors import InputError

_POINT = re.compile(r"[-+]?[0-9]*\.[0-9]+(e[-+]?[0-9]+)?|[-+]?[0-9]+e[-+]?[0-9]+", re.IGNORECASE)
_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+(e[-+]?[0-9]+)?", re.IGNORECASE)
# What may as well be a whole number with separated thousands.
_POINT_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}\.[0-9]{3}")
_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2},[0-9]{3}")


def with_points(columns: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """``columns`` of cells with a decimal point in each number of a column whose numbers have decimal commas.

    A column of which a number has a point is left as it is, and so is one whose commas may all separate thousands,
    unless another column of the table has commas that cannot. Raises InputError for points that may separate thousands
    in a table with decimal commas.

    >>> with_points([["1,5", "2"], ["1,234", "T1"], ["3.5", "4,5"]])
    [['1.5', '2'], ['1.234', 'T1'], ['3.5', '4,5']]
    >>> with_points([["1,234", "5"]])
    [['1,234', '5']]
    """
    certain = any(_has_commas(column, certain=True) for column in columns)
    if certain:
        for column in columns:
            points = [cell for cell in column if _POINT.fullmatch(cell)]
            if points and all(_POINT_THOUSANDS.fullmatch(cell) for cell in points):
                raise InputError(
                    f"{points[0]} may be a fraction or thousands, beside numbers with decimal commas; write it plainly"
                )
    return [
        [cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell for cell in column]
        if certain and _has_commas(column)
        else column
        for column in columns
    ]


def _has_commas(column: Sequence[str], certain: bool = False) -> bool:
    """Whether numbers of a column have a comma and none has a point; ``certain``: one that is no thousands' comma."""
    commas = [cell for cell in column if _COMMA.fullmatch(cell)]
    if certain:
        commas = [cell for cell in commas if not _THOUSANDS.fullmatch(cell)]
    return bool(commas) and not any(_POINT.fullmatch(cell) for cell in column)
