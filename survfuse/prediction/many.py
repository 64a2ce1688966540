"""Many cases predicted one after the other; what is said of them is said once, with counts and names."""

from collections.abc import Iterable, Iterator, Sequence

from survfuse.inputs.case import Case
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor
from survfuse.prediction.sources import Problem
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import Note, count, listing, progress, stage, warn

_NAMES = 3  # shown of the cases that a line is true of


def predicted(
    predictor: Predictor,
    cases: Iterable[Case | Problem],
    number: int,
    modalities: Sequence[str] | None = None,
    omit_unusable_slide: bool = False,
    show_progress: bool = True,
) -> list[Prediction]:
    """The predictions of ``number`` cases, in their order.

    Raises one InputError for all the cases that cannot be predicted, once the others have been.
    """
    predictions, problems = [], list[Problem]()
    for case in progress(cases, number, "scoring") if show_progress else cases:
        if isinstance(case, Problem):
            problems.append(case)
            continue
        try:
            predictions.append(predictor.predict(case, modalities=modalities, omit_unusable_slide=omit_unusable_slide))
        except InputError as error:
            problems.append(Problem(case.name, error))
    if problems:
        raise _of_all(problems, number) from problems[0].error
    return predictions


def _of_all(problems: Sequence[Problem], number: int) -> InputError:
    """One error for every problem; those that are alike are counted."""
    if len(problems) == 1:
        return InputError(f"{problems[0].name}: {problems[0].error}")
    names_by_text: dict[str, list[str]] = {}
    for problem in problems:
        names_by_text.setdefault(str(problem.error), []).append(problem.name)
    texts = [f"{listing(names, _NAMES)}: {text}" for text, names in names_by_text.items()]
    return InputError(f"{len(problems):,} of {count(number, 'case')} cannot be predicted: {'; '.join(texts)}")


def say_notes(predictions: Sequence[Prediction]) -> None:
    """Say what was missing, imputed or ignored, and warn of what the cases were warned of, with counts and names."""
    noted = ((name, note, each.name) for each in predictions for name, note in each.notes)
    for (name, kind), cases in _by_kind(noted).items():
        stage(name, f"{_how_many(cases, len(predictions))}: {kind}")
    warned = (("", note, each.name) for each in predictions for note in each.warning_notes)
    for (_, kind), cases in _by_kind(warned).items():
        warn(f"{_how_many(cases, len(predictions))}: {kind}")


def _by_kind(said: Iterator[tuple[str, Note, str]]) -> dict[tuple[str, str], list[str]]:
    """Names of the cases by stage and kind of note."""
    cases: dict[tuple[str, str], list[str]] = {}
    for name, note, case in said:
        for kind in note.kinds:
            cases.setdefault((name, kind), []).append(case)
    return cases


def _how_many(cases: Sequence[str], number: int) -> str:
    return f"{len(cases):,} of {count(number, 'case')} ({listing(cases, _NAMES)})"
