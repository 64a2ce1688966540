"""A bundle's predictions of a case, a folder of cases or a cohort, as a CSV table.

    case_id, risk, months, training_patient, group, baseline, then one column for each term that the bundle's cases can
    have

training_patient says whether the bundle was trained on the case: yes, no, or empty if it is not known. group is high
for a risk above the training cut, else low.
risk = baseline + the sum of the terms; a term that a case does not have is an empty cell. A case_id that a spreadsheet
could compute begins with an apostrophe.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from survfuse.bundle.load import Bundle, load
from survfuse.inputs.case import Case
from survfuse.networks.terms import ascii_name
from survfuse.prediction.in_sample import TRAINED_ON
from survfuse.prediction.many import predicted, say_notes
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor, announce
from survfuse.prediction.sources import UnusableCase, cache_folder, cases_in
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, counted, stage
from survfuse.runtime.spreadsheet import write_table
from survfuse.runtime.suggestions import check_outputs

if TYPE_CHECKING:
    from survfuse.cohort.table_paths import CohortTables

Columns = Mapping[str, str | float]  # of one case, by name


def predict(
    source: "Path | CohortTables",
    model: Path,
    out: Path,
    *,
    survival: Path | None = None,
    cache: Path | None = None,
    modalities: Sequence[str] | None = None,
    device: str | None = None,
    omit_unusable_slide: bool = False,
    exclude_training: bool = False,
) -> None:
    """Predict every case at ``source`` with the bundle at ``model`` and write the table ``out``.

    ``source`` is a case in the platform's layout, a folder of such cases, or a cohort in a folder or in tables, whose
    outcomes are not needed.
    ``survival`` is a second table: the probability of no event by each year. ``modalities`` are those to use (default:
    all of the bundle's). Copies of features that cannot be mapped go to ``cache``, or to a folder that is removed at
    the end. With ``exclude_training``, patients that the bundle was trained on are left out of the tables. Both are
    written whole, after all cases have been predicted.

    Raises InputError for a table that would overwrite an input, for cases that cannot be read, do not fit the bundle or
    cannot be predicted, if none is left, and for a bundle without the curves that ``survival`` or the digests that
    ``exclude_training`` needs.
    """
    check_outputs({"--out": out, "--survival": survival}, (source,) if isinstance(source, Path) else source.paths)
    bundle = load(model)
    if survival is not None and bundle.curves is None:
        raise InputError(f"{model}: has no survival curves, which --survival needs")
    if exclude_training and bundle.training_patients is None:
        raise InputError(f"{model}: does not know its training patients, which --exclude-training needs")
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
        kept = _new_patients(predictions) if exclude_training else predictions
        if not cases.single:
            say_notes(kept)
    names = predictor.ensemble.term_names()
    if survival is not None:
        write_table(survival, [{"case_id": each.name, **_yearly(bundle, each)} for each in kept])
    write_table(out, [_row(each, names) for each in kept])
    stage("written", f"{out}: {count(len(kept), 'case')}")


def _shown(predictor: Predictor, case: Case | UnusableCase, modalities: Sequence[str] | None, omit: bool) -> Prediction:
    """One case's prediction, with its stages as a job prints them."""
    if isinstance(case, UnusableCase):
        raise case.error
    return predictor.predict(case, modalities=modalities, omit_unusable_slide=omit, show=True)


def _row(prediction: Prediction, names: Sequence[str]) -> Columns:
    terms = {ascii_name(name): prediction.terms.get(name, "") for name in names}
    return {
        "case_id": prediction.name,
        "risk": prediction.risk,
        "months": prediction.months,
        "training_patient": {True: "yes", False: "no", None: ""}[prediction.training_patient],
        "group": prediction.group,
        "baseline": prediction.baseline,
        **terms,
    }


def _new_patients(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those that the bundle was not trained on; raises InputError if there are none."""
    known = [each.name for each in predictions if each.training_patient]
    if len(known) == len(predictions):
        raise InputError(f"{counted(known, 'case')}: all are {TRAINED_ON}, so --exclude-training leaves none")
    if known:
        stage("left out", f"{counted(known, 'case', len(predictions))}: {TRAINED_ON}")
    return [each for each in predictions if not each.training_patient]


def _yearly(bundle: Bundle, prediction: Prediction) -> dict[str, float]:
    """Probability of no event by every year to the end of the bundle's follow-up, by month."""
    assert bundle.curves is not None
    last = float(bundle.curves[prediction.combination].times[-1])
    years = np.arange(12.0, max(12.0, last) + 1.0, 12.0)
    return {f"{month:g}": float(share) for month, share in zip(years, prediction.survival(years), strict=True)}
