"""Units of times to an event: what a number means, and whether a cohort's numbers can mean it."""

import re
from collections.abc import Sequence

import numpy as np

from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError, unexpected
from survfuse.runtime.files import finite_number
from survfuse.runtime.log import counted, stage, warn

DAYS, MONTHS, YEARS = "days", "months", "years"
UNITS = (DAYS, MONTHS, YEARS)
_DAYS_A_MONTH = 30.4375  # a twelfth of a year of 365.25 days
_MONTHS_A_YEAR = 12.0
_LONG = 240.0  # months: a median follow-up of 20 years, as days of eight months would be
_SHORT = 12.0  # months: a longest follow-up of less is as likely one in a larger unit
_IF_DAYS = "if these are days, use --time-unit days"


def read_months(value: object, most: float, name: str = "time", unit: str = MONTHS) -> float:
    """A time in months, by a table's cell or a JSON value in ``unit``.

    Raises InputError that calls the value ``name`` unless it is a number of at least 0 and, in months, below ``most``.

    >>> read_months("12.5", most=1200), read_months(60.875, most=1200, unit="days"), read_months(2, 1200, unit="years")
    (12.5, 2.0, 24.0)
    """
    number = finite_number(value)
    months = None if number is None else _in_months(number, unit)
    if months is not None and 0 <= months < most:
        return months
    days = f"; {_IF_DAYS}" if unit == MONTHS and months is not None and months >= most else ""
    raise unexpected(f"{name}: expected {unit} of at least 0 and below {_in_unit(most, unit):,.0f}", value, days)


def check_named_unit(column: str, unit: str | None) -> None:
    """Raise InputError if the name of a column of times says another unit than months, and none was stated.

    >>> check_named_unit("OS_MONTHS", None)
    >>> check_named_unit("days_to_death", None)
    Traceback (most recent call last):
    survfuse.runtime.errors.InputError: the column days_to_death is called after days; state the unit with --time-unit
    """
    for other in (DAYS, YEARS):
        if unit is None and re.search(rf"(?<![a-z]){other.removesuffix('s')}s?(?![a-z])", column.lower()):
            raise InputError(f"the column {column} is called after {other}; state the unit with --time-unit")


def check_times(ids: Sequence[str], times: Floats, unit: str | None) -> None:
    """Check the ``times`` [n], in months, of the patients ``ids``, which were stated in ``unit``; None: not stated.

    Those of 0 are logged, and a longest one so short that it may be meant in a larger unit. Raises
    InputError for a median that hardly any follow-up in months has, unless the unit was stated.
    """
    if not len(times):
        return
    if zero := [name for name, time in zip(ids, times, strict=True) if time == 0.0]:
        stage("outcomes", f"{counted(zero, 'patient', len(ids))} with a time of 0, kept")
    middle, longest = float(np.median(times)), float(np.max(times))
    if middle >= _LONG and unit is None:
        raise InputError(f"median follow-up of {middle:,.0f} months; {_IF_DAYS}, and if not, --time-unit months")
    if middle >= _LONG:
        warn(f"median follow-up of {middle:,.0f} months")
    elif longest < _SHORT:
        larger = " or ".join(UNITS[UNITS.index(unit or MONTHS) + 1 :])
        hint = f"; if these are {larger}, use --time-unit" if larger else ""
        stage("outcomes", f"longest follow-up of {longest:.3g} months{hint}")


def _in_months(number: float, unit: str) -> float:
    if unit == DAYS:
        return number / _DAYS_A_MONTH
    return number * _MONTHS_A_YEAR if unit == YEARS else number


def _in_unit(months: float, unit: str) -> float:
    if unit == DAYS:
        return months * _DAYS_A_MONTH
    return months / _MONTHS_A_YEAR if unit == YEARS else months
