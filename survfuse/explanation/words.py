"""Numbers and names as the page of an explanation writes them."""

import math
from collections.abc import Sequence

NAMES = {  # of modalities
    "slide": "the slide",
    "vector": "the slide-level vector",
    "rna": "expression",
    "clinical": "clinical variables",
}
_FEWEST, _MOST = 2, 9  # decimals


def decimals(value: float) -> int:
    """The decimals that show three significant digits of ``value``, and two at least.

    >>> decimals(12.5), decimals(0.05), decimals(0.0)
    (2, 4, 2)
    """
    if value == 0.0:
        return _FEWEST
    return min(_MOST, max(_FEWEST, 2 - math.floor(math.log10(abs(value)))))


def signed(value: float, sd: float | None = None, places: int | None = None) -> str:
    """A part of the risk with its sign, and its standard deviation to the same decimals: ``places``, if given.

    >>> signed(-0.0881, 0.154), signed(1.5), signed(0.0)
    ('−0.088 ± 0.154', '+1.50', '0.00')
    """
    if places is None:
        places = decimals(max(abs(value), sd or 0.0))
    text = f"{value:+.{places}f}" if round(value, places) else f"{0.0:.{places}f}"
    return text.replace("-", "−") + (f" ± {sd:.{places}f}" if sd is not None else "")


def share(percent: float) -> str:
    """A percentage in whole numbers, without claiming none or all.

    >>> share(0.2), share(33.6), share(99.8)
    ('less than 1%', '34%', 'more than 99%')
    """
    if percent < 1.0:
        return "less than 1%"
    return "more than 99%" if percent > 99.0 else f"{percent:.0f}%"


def joined(names: Sequence[str]) -> str:
    """Modalities by their names on the page.

    >>> joined(["slide", "rna", "clinical"])
    'the slide, expression and clinical variables'
    """
    words = [NAMES.get(name, name) for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def round_length(longest: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is at most ``longest``, for a scale bar.

    >>> round_length(90.0), round_length(0.3)
    (50.0, 0.2)
    """
    power = 10.0 ** math.floor(math.log10(longest))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= longest)
