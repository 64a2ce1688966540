"""What drawings on a page have in common: their style and colours, and how they become SVG elements."""

import io
import re
from contextlib import AbstractContextManager
from html import escape, unescape

import matplotlib
import numpy as np
from matplotlib.figure import Figure

# On white, lines have a contrast of 3 at least, and text one of 4.5 (WCAG 2.2 AA).
HIGH, LOW, QUIET = "#b5432a", "#2b6a99", "#80858f"
TEXT, MUTED = "#1d2430", "#566071"
WIDTH = 5.4  # inches of a drawing: a page of 500 pixels shows it at nearly its own size


def style() -> AbstractContextManager[None]:
    """matplotlib's settings for all drawings, for as long as the context lasts."""
    return matplotlib.rc_context(
        {
            "svg.hashsalt": "survfuse",  # without it, ids are random
            "svg.fonttype": "none",  # text stays text: smaller, searchable and readable aloud
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
            "font.size": 10,
            "text.parse_math": False,  # a family's name may contain a dollar sign
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": MUTED,
            "text.color": TEXT,
            "axes.labelcolor": TEXT,
            "axes.titlesize": 10.5,
            "axes.titleweight": "bold",
            "legend.frameon": False,
            "legend.fontsize": 9.5,
            "xtick.color": TEXT,
            "ytick.color": TEXT,
        }
    )


def month_ticks(last: float) -> list[float]:
    """Whole years up to the month ``last``, with larger steps if there would be more than about ten.

    >>> month_ticks(40.0)
    [0.0, 12.0, 24.0, 36.0]
    """
    step = 12.0 * max(1, int(np.ceil(last / 120.0)))
    ticks: list[float] = np.arange(0.0, last + 1e-9, step).tolist()
    return ticks


def svg_element(name: str, drawing: Figure, label: str) -> str:
    """The drawing as an element of a page: without metadata and namespaces, and with ids that begin with ``name``.

    The prefix keeps the ids of several drawings on a page distinct. ``label``, in which tags are left out, says what
    is drawn to those who cannot see it.
    """
    buffer = io.StringIO()
    drawing.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    said = escape(unescape(re.sub(r"<.*?>", "", label)))
    return text.replace("<svg", f'<svg role="img" aria-label="{said}"', 1)
