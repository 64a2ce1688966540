"""Many cases predicted; each note and warning is logged once, with counts and names."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from survfuse.inputs.case import Case
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Inputs, Predictor
from survfuse.prediction.side_by_side import scored
from survfuse.prediction.sources import UnusableCase
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import NAMED, Note, Record, count, counted, listing, progress, recorded, stage, warn

_TEXTS = 8  # shown of the reasons why cases cannot be predicted


def predicted(
    predictor: Predictor,
    cases: Iterable[Case | UnusableCase],
    number: int,
    modalities: Sequence[str] | None = None,
    omit_unusable_slide: bool = False,
    show_progress: bool = True,
    of: int | None = None,
    with_tiles: bool = True,
) -> list[Prediction]:
    """The predictions of ``number`` cases, in their order; they are whole blocks of ``of`` cases, if that is given.

    Without ``with_tiles``, they have no attention and no coordinates, which many cases have gigabytes of. Cases are
    read one after the other and scored side by side. Notes and warnings made while a case is read belong to its
    prediction. Raises one InputError for all the cases that cannot be predicted, after the others have been.
    """
    predictor.chosen(modalities)
    inputs = read_inputs(predictor, cases, modalities, omit_unusable_slide)
    results: Iterable[Prediction | UnusableCase] = scored(predictor, inputs, of or number)
    if show_progress:
        results = progress(results, number, "scoring")
    return all_predicted(results if with_tiles else map(without_tiles, results), number)


def without_tiles(outcome: Prediction | UnusableCase) -> Prediction | UnusableCase:
    """An outcome without what it has of every tile."""
    return outcome if isinstance(outcome, UnusableCase) else replace(outcome, attention=None, coordinates=None)


def read_inputs(
    predictor: Predictor, cases: Iterable[Case | UnusableCase], modalities: Sequence[str] | None, omit: bool
) -> Iterator[Inputs | UnusableCase]:
    """Each case's inputs, or why it cannot be read, with what was said while it was."""
    for case, said in with_records(cases):
        if isinstance(case, UnusableCase):
            yield case
            continue
        try:
            yield predictor.inputs(case, modalities, omit_unusable_slide=omit, said=said)
        except InputError as error:
            yield UnusableCase(case.name, error)


def all_predicted(results: Iterable[Prediction | UnusableCase], number: int) -> list[Prediction]:
    """The predictions of ``number`` cases; raises one InputError for all that cannot be predicted, if there are any."""
    predictions, problems = list[Prediction](), list[UnusableCase]()
    for result in results:
        if isinstance(result, UnusableCase):
            problems.append(result)
        else:
            predictions.append(result)
    if problems:
        raise error_of_all(problems, number) from problems[0].error
    return predictions


def with_records(cases: Iterable[Case | UnusableCase]) -> Iterator[tuple[Case | UnusableCase, Record]]:
    """Each case with what was said while it was read."""
    source = iter(cases)
    while True:
        with recorded(show=False) as said:
            case = next(source, None)
        if case is None:
            return
        yield case, said


def error_of_all(problems: Sequence[UnusableCase], number: int) -> InputError:
    """One error for all problems; equal ones are counted."""
    if len(problems) == 1:
        return InputError(f"{problems[0].name}: {problems[0].reason}")
    names_by_text: dict[str, list[str]] = {}
    for problem in problems:
        names_by_text.setdefault(problem.reason, []).append(problem.name)
    texts = [f"{listing(names, NAMED)}: {text}" for text, names in names_by_text.items()]
    if len(texts) > _TEXTS:
        texts[_TEXTS:] = [f"and {len(texts) - _TEXTS:,} more reasons"]
    return InputError(f"{len(problems):,} of {count(number, 'case')} cannot be predicted: {'; '.join(texts)}")


def say_notes(predictions: Sequence[Prediction]) -> None:
    """Log what was missing, imputed or ignored, and repeat the cases' warnings, with counts and names."""
    noted = ((name, note, each.name) for each in predictions for name, note in each.notes)
    for (name, kind), cases in _by_kind(noted).items():
        stage(name, f"{counted(cases, 'case', len(predictions))}: {kind}")
    warned = (("", note, each.name) for each in predictions for note in each.warning_notes)
    for (_, kind), cases in _by_kind(warned).items():
        warn(f"{counted(cases, 'case', len(predictions))}: {kind}")


def _by_kind(said: Iterator[tuple[str, Note, str]]) -> dict[tuple[str, str], list[str]]:
    """Names of the cases by stage and kind of note."""
    cases: dict[tuple[str, str], list[str]] = {}
    for name, note, case in said:
        for kind in note.kinds:
            cases.setdefault((name, kind), []).append(case)
    return cases
