"""A bundle's predictions of a case, a folder of cases or a cohort, as a CSV table.

    case_id, risk, months, baseline, then one column for each term that the bundle's cases can have

risk = baseline + the sum of the terms; a term that a case does not have is an empty cell. A case_id that a spreadsheet
could compute begins with an apostrophe.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from survfuse.bundle.load import Bundle, load
from survfuse.inputs.case import Case
from survfuse.networks.terms import ascii_name
from survfuse.prediction.many import predicted, say_notes
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor, announce
from survfuse.prediction.sources import UnusableCase, cache_folder, cases_in
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import write_text
from survfuse.runtime.log import count, stage
from survfuse.runtime.spreadsheet import cell

Columns = Mapping[str, str | float]  # of one case, by name


def predict(
    source: Path,
    model: Path,
    out: Path,
    *,
    survival: Path | None = None,
    cache: Path | None = None,
    modalities: Sequence[str] | None = None,
    device: str | None = None,
    omit_unusable_slide: bool = False,
) -> None:
    """Predict every case at ``source`` with the bundle at ``model`` and write the table ``out``.

    ``source`` is a case in the platform's layout, a folder of such cases, or a cohort, whose outcomes are not needed.
    ``survival`` is a second table: the probability of no event by each year. ``modalities`` are those to use (default:
    all of the bundle's). Copies of features that cannot be mapped go to ``cache``, or to a folder that is removed at
    the end. Both tables are written whole, after all cases have been predicted.

    Raises InputError for cases that cannot be read, do not fit the bundle or cannot be predicted, and for a bundle
    without the curves that ``survival`` needs.
    """
    bundle = load(model)
    if survival is not None and bundle.curves is None:
        raise InputError(f"{model}: has no survival curves, which --survival needs")
    announce(bundle)
    predictor = Predictor(bundle, device)
    chosen = predictor.chosen(modalities)
    with cache_folder(cache, out) as folder:
        cases = cases_in(source, bundle, chosen, folder)
        stage("cases", f"{count(len(cases.names), 'case')}, scored with {', '.join(chosen)}")
        if cases.single:
            predictions = [_shown(predictor, case, modalities, omit_unusable_slide) for case in cases]
        else:
            predictions = predicted(predictor, cases, len(cases.names), modalities, omit_unusable_slide)
            say_notes(predictions)
    names = predictor.ensemble.term_names()
    if survival is not None:
        _write_table(survival, [{"case_id": each.name, **_yearly(bundle, each)} for each in predictions])
    _write_table(out, [_row(each, names) for each in predictions])
    stage("written", f"{out}: {count(len(predictions), 'case')}")


def _shown(predictor: Predictor, case: Case | UnusableCase, modalities: Sequence[str] | None, omit: bool) -> Prediction:
    """One case's prediction, with its stages as a job prints them."""
    if isinstance(case, UnusableCase):
        raise case.error
    return predictor.predict(case, modalities=modalities, omit_unusable_slide=omit, show=True)


def _row(prediction: Prediction, names: Sequence[str]) -> Columns:
    terms = {ascii_name(name): prediction.terms.get(name, "") for name in names}
    numbers = {"risk": prediction.risk, "months": prediction.months, "baseline": prediction.baseline}
    return {"case_id": prediction.name, **numbers, **terms}


def _yearly(bundle: Bundle, prediction: Prediction) -> dict[str, float]:
    """Probability of no event by every year to the end of the bundle's follow-up, by month."""
    assert bundle.curves is not None
    last = float(bundle.curves[prediction.combination].times[-1])
    years = np.arange(12.0, max(12.0, last) + 1.0, 12.0)
    return {f"{month:g}": float(share) for month, share in zip(years, prediction.survival(years), strict=True)}


def _write_table(path: Path, rows: Sequence[Columns]) -> None:
    """Write ``rows`` as CSV, with every column that any of them has; texts as ``cell`` makes them harmless."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: cell(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    )
    write_text(path, table.getvalue())
