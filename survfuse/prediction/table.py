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
from survfuse.prediction.many import all_predicted, predicted, say_notes
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor, announce
from survfuse.prediction.score_work import ScoreWork, blocks, check_several, scored_elsewhere
from survfuse.prediction.sources import UnusableCase, cache_folder, cases_in
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, counted, stage
from survfuse.runtime.spreadsheet import write_table
from survfuse.runtime.suggestions import check_outputs
from survfuse.workers.executor import Executor, executor
from survfuse.workers.settings import Cluster
from survfuse.workers.shard import Shard

if TYPE_CHECKING:
    from survfuse.cohort.table_paths import CohortTables

Columns = Mapping[str, str | float]  # of one case, by name
_COLUMNS = ("case_id", "risk", "months", "training_patient", "group", "baseline")


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
    cluster: Cluster | None = None,
    shard: Shard | None = None,
) -> None:
    """Predict every case at ``source`` with the bundle at ``model`` and write the table ``out``.

    ``source`` is a case in the platform's layout, a folder of such cases, or a cohort in a folder or in tables, whose
    outcomes are not needed.
    ``survival`` is a second table: the probability of no event by each year. ``modalities`` are those to use (default:
    all of the bundle's). Copies of features that cannot be mapped go to ``cache``, or to a folder that is removed at
    the end. With ``exclude_training``, patients that the bundle was trained on are left out of the tables. Both are
    written whole, after all cases have been predicted. Several cases are shared out among all GPUs or on ``cluster``;
    with ``shard`` only its part of them is predicted, and may be none.

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
    # Workers have their own devices; this machine may have none of their kind.
    predictor = Predictor(bundle, device if cluster is None else "cpu")
    chosen = predictor.chosen(modalities)
    with cache_folder(cache, out) as folder:
        cases = cases_in(source, bundle, chosen, folder)
        scored_with = f"scored with {', '.join(chosen)}"
        if cases.single:
            check_several(cluster, shard)
            stage("cases", f"1 case, {scored_with}")
            predictions = [_shown(predictor, case, modalities, omit_unusable_slide) for case in cases]
        else:
            work = ScoreWork(model.absolute(), cases, modalities, omit_unusable_slide)
            with executor(device, cluster, say=False) as where:
                places = blocks(cases, shard, where.device.type != "cpu")
                part = f" in shard {shard}" if shard is not None else ""
                stage("cases", f"{count(sum(map(len, places)), 'case')}{part}, {scored_with}")
                predictions = _predicted(predictor, work, places, where)
    kept = _new_patients(predictions) if exclude_training else predictions
    if not cases.single:
        say_notes(kept)
    names = predictor.ensemble.term_names()
    if survival is not None:
        write_table(survival, [{"case_id": each.name, **_yearly(bundle, each)} for each in kept], ["case_id"])
    write_table(out, [_row(each, names) for each in kept], [*_COLUMNS, *map(ascii_name, names)])
    stage("written", f"{out}: {count(len(kept), 'case')}")


def _predicted(
    predictor: Predictor, work: ScoreWork, places: Sequence[Sequence[int]], where: Executor
) -> list[Prediction]:
    """The predictions of the cases at ``places``, block by block, in this process or by the workers of ``where``."""
    number = sum(map(len, places))
    if not where.is_here:
        return all_predicted(scored_elsewhere(where, work, places, predictor.bundle), number)
    own, every = work.cases.part([place for block in places for place in block]), len(work.cases.names)
    return predicted(predictor, own, number, work.modalities, work.omit_unusable_slide, of=every, with_tiles=False)


def _shown(predictor: Predictor, case: Case | UnusableCase, modalities: Sequence[str] | None, omit: bool) -> Prediction:
    """One case's prediction, with its stages as a job prints them."""
    if isinstance(case, UnusableCase):
        raise case.error
    return predictor.predict(case, modalities=modalities, omit_unusable_slide=omit, show=True)


def _row(prediction: Prediction, names: Sequence[str]) -> Columns:
    terms = {ascii_name(name): prediction.terms.get(name, "") for name in names}
    known = {True: "yes", False: "no", None: ""}[prediction.training_patient]
    own: tuple[str | float, ...] = (
        prediction.name,
        prediction.risk,
        prediction.months,
        known,
        prediction.group,
        prediction.baseline,
    )
    return dict(zip(_COLUMNS, own, strict=True)) | terms


def _new_patients(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those that the bundle was not trained on; raises InputError if there are none."""
    known = [each.name for each in predictions if each.training_patient]
    if predictions and len(known) == len(predictions):
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
