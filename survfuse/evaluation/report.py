"""Performance of a training run on held-out patients: ``report.json`` for machines, ``report.html`` for people.

Every figure of performance comes from risks and survival curves that each patient was given by models which never saw
that patient and chose nothing by that patient (the outer folds of a nested cross-validation). Only the loss curves show
data that fitting itself used; the report says so next to them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from survfuse.evaluation.drawings import drawings
from survfuse.evaluation.facts import plain
from survfuse.evaluation.page import page
from survfuse.evaluation.summary import HeldOut, MemberCurve, Summary, summary
from survfuse.runtime.files import write_json, write_text

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"


def write_report(
    folder: Path, held: HeldOut, curves: Sequence[MemberCurve], facts: Mapping[str, object], draws: int = 1000
) -> Summary:
    """Write ``report.json`` and ``report.html`` into ``folder``, created if absent; returns the ``summary``.

    ``facts`` holds what else a reader should know about the run (cohort, protocol, stack weights): nested mappings and
    lists of text and numbers. ``notice`` among them comes first on the page. ``draws`` is the number of bootstrap
    draws. The same input gives the same bytes.
    """
    figures = summary(held, draws)
    stated = {name: plain(value) for name, value in facts.items()}
    text = page(figures, stated, drawings(held, curves, figures))
    folder.mkdir(parents=True, exist_ok=True)
    losses = plain([vars(curve) for curve in curves])
    write_json(folder / REPORT_JSON, {"heldout": figures, "facts": stated, "loss_curves": losses})
    write_text(folder / REPORT_HTML, text)
    return figures
