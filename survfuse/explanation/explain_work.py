"""What a worker does with one of several cases: the folder of its explanation."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.bundle.load import load
from survfuse.explanation.explanation import INCOMPLETE, Explainer
from survfuse.explanation.files import write_files
from survfuse.inputs.case import Case
from survfuse.prediction.many import with_records
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor
from survfuse.prediction.sources import Cases, UnusableCase
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import Note, Record, recorded
from survfuse.workers.shared_folder import SharedFolder, check_seen

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ExplainWork:
    """Explains the case at a place of ``cases`` with the bundle at ``model``, in a folder of its own below ``root``.

    ``modalities`` and ``omit_unusable_slide`` are as in ``predicted``; ``shared`` shows whether a worker sees ``root``,
    and is None for workers on this machine. What is given back has nothing of the tiles.
    """

    model: Path
    cases: Cases
    root: Path
    modalities: Sequence[str] | None
    omit_unusable_slide: bool
    shared: SharedFolder | None = None

    def start(self, device: "torch.device") -> Callable[[int, int], Prediction | UnusableCase]:
        """Load the bundle and its networks."""
        if self.shared is not None:
            self.shared.check()
        check_seen(self.model)
        with recorded(show=False):
            explainer = Explainer(Predictor(load(self.model), str(device)))
        return partial(self.explained, explainer)

    def explained(self, explainer: Explainer, place: int, _: int = 0) -> Prediction | UnusableCase:
        """The prediction of the case at ``place``, once its explanation is written; or why there is none."""
        ((case, said),) = with_records(self.cases.part([place]))
        if isinstance(case, UnusableCase):
            return case
        try:
            return self._written(explainer, case, said)
        except InputError as error:
            return UnusableCase(case.name, error)

    def _written(self, explainer: Explainer, case: Case, said: Record) -> Prediction:
        with recorded(show=False):
            if Path(case.name).name != case.name:
                raise InputError(f"{case.name[:80]!r} cannot be the name of a folder")
            explanation = explainer.explain(
                case, modalities=self.modalities, omit_unusable_slide=self.omit_unusable_slide, said=said
            )
            folder = self.root / case.name
            shutil.rmtree(folder, ignore_errors=True)  # what a worker that died has left
            folder.mkdir()
            write_files(folder, explanation)
        prediction = explanation.prediction
        own = [Note(text, (INCOMPLETE,)) for text in explanation.warnings[len(prediction.warnings) :]]
        return replace(
            prediction,
            attention=None,
            coordinates=None,
            curve=None,
            notes=explanation.notes,
            warning_notes=(*prediction.warning_notes, *own),
        )
