"""Numbers that may be undefined, for JSON and as text."""

import math


def null(value: float) -> float | None:
    """``value`` for JSON, which has no NaN and no infinity: None stands for them.

    >>> null(0.5), null(float("nan"))
    (0.5, None)
    """
    return float(value) if math.isfinite(value) else None


def number_text(value: float | None, form: str = ".3f") -> str:
    """``value`` formatted by ``form``, or "undefined" for None.

    >>> number_text(0.61234), number_text(None)
    ('0.612', 'undefined')
    """
    return "undefined" if value is None else format(value, form)
