"""Performance of a training run on held-out patients: ``report.json`` for machines, ``report.html`` for people.

Every figure of performance comes from risks and survival curves that each patient was given by models which never saw
that patient and chose nothing by that patient (the outer folds of a nested cross-validation). Only the loss curves show
data that fitting itself used; the report says so next to them.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from survfuse.evaluation.facts import plain
from survfuse.evaluation.summary import HeldOut, MemberCurve, Summary, held_out_figures
from survfuse.evaluation.training_page import training_finding, training_page
from survfuse.runtime.files import write_json, write_text

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
_DATE = "SOURCE_DATE_EPOCH"  # reproducible-builds.org: seconds since 1970 that stand for the time of a build


def write_report(
    folder: Path,
    held: HeldOut,
    curves: Sequence[MemberCurve],
    facts: Mapping[str, object],
    draws: int = 1000,
    subject: str = "",
) -> Summary:
    """Write ``report.json`` and ``report.html`` into ``folder``, created if absent; returns the ``summary``.

    ``facts`` holds what else a reader should know about the run (cohort, protocol, stack weights): nested mappings and
    lists of text and numbers. ``notice`` among them follows what was found. ``draws`` is the number of bootstrap draws.
    ``subject`` says in the title which cohort and model it is about. The same input gives the same bytes, so that the
    title has a date only if ``SOURCE_DATE_EPOCH`` states one; otherwise the file's own time says when it was written.
    """
    found = held_out_figures(held, draws)
    stated = {name: plain(value) for name, value in facts.items()}
    finding = training_finding(found, stated.get("simulated") is True)
    text = training_page(held, found, finding, stated, curves, ", ".join(filter(None, (subject, stated_date()))))
    folder.mkdir(parents=True, exist_ok=True)
    losses = plain([vars(curve) for curve in curves])
    written = {
        "finding": finding,
        "heldout": found.summary,
        "performance": found.performance,
        "combinations": found.combinations,
        "facts": stated,
        "loss_curves": losses,
    }
    write_json(folder / REPORT_JSON, written)
    write_text(folder / REPORT_HTML, text)
    return found.summary


def stated_date() -> str:
    """The day that ``SOURCE_DATE_EPOCH`` states, as 2026-11-27; empty without it, or if it is no time."""
    try:
        return datetime.fromtimestamp(int(os.environ.get(_DATE, "")), UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return ""
