"""A job that is also asked why: it writes an explanation, a heat map, or both."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.inputs.case import Case
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.files import write_bytes
from survfuse.runtime.log import stage

if TYPE_CHECKING:
    from survfuse.explanation.explanation import Explanation

_EXPLAINING = 0.3  # time that an explanation takes, of the job's own


@contextmanager
def explained_job(
    predictor: Predictor, case: Case, seconds: float | None, omit: bool, heatmap: Path | None, folder: Path | None
) -> Iterator[Prediction]:
    """Explain ``case`` and yield its prediction; if the block succeeds, place the heat map and the folder's files.

    ``seconds``, of which a share is kept for the explanation, and ``omit`` are as in ``Predictor.predict``. Raises
    InputError if a heat map is asked for and the places of the case's tiles are not known.
    """
    _give_matplotlib_a_folder()
    from survfuse.explanation.explanation import Explainer
    from survfuse.explanation.files import write_files
    from survfuse.explanation.heatmap import heatmap_bytes
    from survfuse.explanation.out_folder import new_out_folder

    limit = seconds / (1.0 + _EXPLAINING) if seconds is not None else None
    explanation = Explainer(predictor).explain(case, seconds=limit, omit_unusable_slide=omit, show=True)
    if heatmap is not None:
        _check_heatmap(explanation)
    with new_out_folder(folder) if folder is not None else nullcontext() as partial:
        if partial is not None:
            write_files(partial, explanation)
        image = heatmap_bytes(explanation) if heatmap is not None else b""
        yield explanation.prediction
        if heatmap is not None:
            _place(heatmap, image)
            stage("written", str(heatmap))
    if folder is not None:
        stage("written", str(folder))


def _check_heatmap(explanation: "Explanation") -> None:
    """Raise InputError if there is no heat map, or none that the platform takes: it refuses images of no resolution."""
    name = explanation.case.name
    if explanation.mapped is None:
        raise InputError(f"{name}: no tile with a known place was scored, so there is no heat map")
    if explanation.mapped[0].mpp is None:
        raise InputError(f"{name}: the slide's resolution is not known, without which the platform takes no heat map")


def _give_matplotlib_a_folder() -> None:
    """A container's user may have no writable home, of which matplotlib would warn on stderr."""
    if "MPLCONFIGDIR" not in os.environ:
        os.environ["MPLCONFIGDIR"] = folder = tempfile.mkdtemp(prefix="matplotlib-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def _place(path: Path, data: bytes) -> None:
    """Write an output image, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError as cause:
        raise EnvironmentFailure(f"{path}: cannot be written ({cause.strerror})") from cause
