"""A bundle for use in Python, as ``survfuse.load`` returns it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.bundle.load import Bundle
from survfuse.inputs.case import UNNAMED, Case
from survfuse.inputs.sockets import read_case
from survfuse.prediction.many import predicted
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor
from survfuse.prediction.sources import UnusableCase
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import recorded

if TYPE_CHECKING:
    from survfuse.explanation.explanation import Explanation


class Model:
    """A verified bundle, ready to predict. Weights are read, and torch is imported, when the first case needs them.

    >>> import survfuse
    >>> from contextlib import redirect_stdout
    >>> with redirect_stdout(None):  # demonstration weights announce themselves
    ...     model = survfuse.demonstration(device="cpu")
    >>> model.modalities
    ('slide', 'rna', 'clinical')
    >>> "slide+rna+clinical" in model.combinations
    True
    """

    def __init__(self, bundle: Bundle, device: str | None = None) -> None:
        """``device`` is auto, cpu, cuda or cuda:N; None takes SURVFUSE_DEVICE, else auto."""
        self.bundle = bundle
        self._predictor = Predictor(bundle, device)

    def __repr__(self) -> str:
        manifest = self.bundle.manifest
        return f"<survfuse model of {len(manifest.members)} members, {manifest.purpose}, {self.bundle.root.name}>"

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities that the model can use, in the task's order."""
        return self.bundle.modalities

    @property
    def combinations(self) -> tuple[str, ...]:
        """The combinations of modalities that it scores, for example "slide+rna+clinical"."""
        return tuple(self.bundle.manifest.combinations)

    def predict(self, case: "Case | str | os.PathLike[str]", *, modalities: Sequence[str] | None = None) -> Prediction:
        """Predict one case: a ``Case``, or the path of a case in the platform's layout.

        ``modalities`` are those to use (default: all that the case has and the model uses). The prediction holds the
        months, the risk in standard deviations of the reference risks with its terms, and every note and warning;
        nothing is printed. Raises InputError for a case that cannot be used, BundleError for weights that cannot, and
        EnvironmentFailure if the machine fails.

        >>> import survfuse
        >>> from contextlib import redirect_stdout
        >>> with redirect_stdout(None):  # demonstration weights announce themselves
        ...     model = survfuse.demonstration(device="cpu")
        >>> prediction = model.predict(survfuse.Case(clinical={"age": 71, "sex": "Male", "stage": "T1HG"}))
        >>> prediction.combination
        'clinical'
        >>> bool(abs(prediction.baseline + sum(prediction.terms.values()) - prediction.risk) < 1e-9)
        True
        """
        with recorded(show=False) as said:
            given = self._case(case)
        return self._predictor.predict(given, modalities=modalities, said=said)

    def explain(
        self,
        case: "Case | str | os.PathLike[str]",
        *,
        out: "str | os.PathLike[str] | None" = None,
        modalities: Sequence[str] | None = None,
    ) -> "Explanation":
        """Predict one case, as ``predict`` does, and divide its risk among its tiles, genes and variables.

        With ``out``, the explanation's files are written to that folder, all or none; an earlier explanation there is
        replaced. Raises what ``predict`` raises, and InputError for an ``out`` that holds anything else.

        >>> import survfuse
        >>> from contextlib import redirect_stdout
        >>> with redirect_stdout(None):
        ...     model = survfuse.demonstration(device="cpu")
        >>> explanation = model.explain(survfuse.Case(clinical={"age": 71, "sex": "Male", "stage": "T1HG"}))
        >>> bool(abs(explanation.attribution.total - explanation.prediction.risk) < 1e-5)
        True
        """
        from survfuse.explanation.explanation import Explainer

        folder = Path(out) if out is not None else None
        if folder is not None:
            from survfuse.explanation.out_folder import check_out

            check_out(folder, {"the bundle": self.bundle.root})
        with recorded(show=False) as said:
            given = self._case(case)
        explanation = Explainer(self._predictor).explain(given, modalities=modalities, said=said)
        if folder is not None:
            from survfuse.explanation.files import write_explanation

            with recorded(show=False):
                write_explanation(folder, explanation)
        return explanation

    def predict_many(
        self,
        cases: "Iterable[Case | str | os.PathLike[str]]",
        *,
        modalities: Sequence[str] | None = None,
        progress: bool = True,
    ) -> list[Prediction]:
        """Predict several cases, given as for ``predict``, in their order.

        With ``progress`` a bar is shown on a terminal, and a line every ten seconds elsewhere. Raises one InputError
        that names every case that cannot be used, after the others have been tried; a ``Case`` without a name is
        called by its place in the list, from 1.

        >>> import survfuse
        >>> from contextlib import redirect_stdout
        >>> with redirect_stdout(None):
        ...     model = survfuse.demonstration(device="cpu")
        >>> cases = [survfuse.Case(clinical={"age": age, "sex": "Male"}) for age in (50, 80)]
        >>> len(model.predict_many(cases, progress=False))
        2
        """
        given = list(cases)
        return predicted(self._predictor, self._cases(given), len(given), modalities, show_progress=progress)

    def _cases(self, given: "Sequence[Case | str | os.PathLike[str]]") -> Iterator[Case | UnusableCase]:
        for number, source in enumerate(given, start=1):
            try:
                case = self._case(source)
                yield case.called(f"case {number}") if case.name == UNNAMED else case
            except InputError as error:
                yield UnusableCase(f"case {number}", error)

    def _case(self, case: "Case | str | os.PathLike[str]") -> Case:
        if isinstance(case, Case):
            return case
        if not isinstance(case, (str, os.PathLike)):
            raise InputError(f"expected a Case or the path of a case, found {type(case).__name__}")
        return read_case(Path(case), self.bundle.task)
