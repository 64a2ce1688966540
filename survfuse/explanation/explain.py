"""A bundle's explanations of a case, a folder of cases or a cohort: a folder of files for each case."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from survfuse.bundle.load import load
from survfuse.cohort.table_paths import CohortTables
from survfuse.explanation.explanation import INCOMPLETE, Explainer
from survfuse.explanation.files import write_explanation, write_files
from survfuse.explanation.out_folder import check_out, new_out_folder
from survfuse.inputs.case import Case
from survfuse.prediction.many import error_of_all, say_notes, with_records
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor, announce
from survfuse.prediction.sources import Cases, UnusableCase, cache_folder, cases_in
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import Note, Record, count, progress, recorded, stage


def explain(
    source: Path | CohortTables,
    model: Path,
    out: Path,
    *,
    cache: Path | None = None,
    modalities: Sequence[str] | None = None,
    device: str | None = None,
    omit_unusable_slide: bool = False,
) -> None:
    """Explain every case at ``source``, or in its tables, with the bundle at ``model``, as ``predict`` takes them.

    The files of a single case are written to the folder ``out``, those of several to folders in it that are named after
    them; all or none. An earlier explanation in ``out`` is replaced.

    Raises InputError for cases that cannot be read, do not fit the bundle or cannot be predicted, all of them in one
    error, and for an ``out`` that holds something else.
    """
    cases_at = {"the cases": source} if isinstance(source, Path) else {path.name: path for path in source.paths}
    out = check_out(out, cases_at | {"the bundle": model, "the cache": cache})
    bundle = load(model)
    announce(bundle)
    explainer = Explainer(Predictor(bundle, device))
    chosen = explainer.predictor.chosen(modalities)
    with cache_folder(cache, out) as folder:
        cases = cases_in(source, bundle, chosen, folder)
        stage("cases", f"{count(len(cases.names), 'case')}, explained with {', '.join(chosen)}")
        if cases.single:
            (case,) = cases
            if isinstance(case, UnusableCase):
                raise case.error
            explanation = explainer.explain(
                case, modalities=modalities, omit_unusable_slide=omit_unusable_slide, show=True
            )
            write_explanation(out, explanation)
        else:
            _explain_all(explainer, cases, out, modalities, omit_unusable_slide)
            stage("written", f"{out}: {count(len(cases.names), 'case')}")


def _explain_all(explainer: Explainer, cases: Cases, out: Path, modalities: Sequence[str] | None, omit: bool) -> None:
    """Write a folder for each of several cases; raises one InputError for all that cannot be explained."""
    predictions, problems = list[Prediction](), list[UnusableCase]()
    with new_out_folder(out) as root:
        for case, said in progress(with_records(cases), len(cases.names), "explaining"):
            outcome = _explained(explainer, case, said, root, modalities, omit)
            if isinstance(outcome, UnusableCase):
                problems.append(outcome)
            else:
                predictions.append(outcome)
        if problems:
            raise error_of_all(problems, len(cases.names)) from problems[0].error
        say_notes(predictions)


def _explained(
    explainer: Explainer,
    case: Case | UnusableCase,
    said: Record,
    root: Path,
    modalities: Sequence[str] | None,
    omit: bool,
) -> Prediction | UnusableCase:
    """A case's prediction, its explanation written to its folder below ``root``; or why there is none."""
    if isinstance(case, UnusableCase):
        return case
    try:
        with recorded(show=False):
            if Path(case.name).name != case.name:
                raise InputError(f"{case.name[:80]!r} cannot be the name of a folder")
            explanation = explainer.explain(case, modalities=modalities, omit_unusable_slide=omit, said=said)
            folder = root / case.name
            folder.mkdir()
            write_files(folder, explanation)
    except InputError as error:
        return UnusableCase(case.name, error)
    prediction = explanation.prediction
    own = [Note(text, (INCOMPLETE,)) for text in explanation.warnings[len(prediction.warnings) :]]
    return replace(prediction, notes=explanation.notes, warning_notes=(*prediction.warning_notes, *own))
