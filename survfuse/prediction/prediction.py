"""What is predicted for one case."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import BundleError, InputError
from survfuse.runtime.log import Note
from survfuse.survival.curves import SurvivalCurve

HIGH, LOW = "high", "low"


@dataclass(frozen=True, eq=False)
class Prediction:
    """One case's predicted time, the risk behind it and its additive parts.

    ``risk`` is a log relative hazard, rescaled to standard deviations of the reference risks: larger is worse. It is
    ``baseline`` + the sum of ``terms``. A term is named after the modalities that it depends on. A modality that
    the case lacks has no term; the constants that stand in for it belong to the baseline.

    >>> import survfuse
    >>> from contextlib import redirect_stdout
    >>> with redirect_stdout(None):  # demonstration weights announce themselves
    ...     model = survfuse.demonstration(device="cpu")
    >>> prediction = model.predict(survfuse.Case(clinical={"age": 71, "sex": "Male", "stage": "T1HG"}))
    >>> list(prediction.terms), prediction.attention is None, prediction.months > 0
    (['clinical'], True, True)
    """

    name: str  # the case's
    combination: str  # of the modalities that were used, for example "slide+rna+clinical"
    months: float  # predicted time to the event; larger is later
    beyond: bool  # whether that lies beyond the last event of the reference patients, where it is only a ranking
    risk: float
    baseline: float
    terms: Mapping[str, float]  # by name: modalities, their pairs in the task's order, others
    member_risks: Floats  # [M], each on its own scale, of the members that score the combination
    attention: Floats | None  # [N], over the tiles; sums to 1; None without a slide
    coordinates: NDArray[np.int64] | None  # [N, 2], x and y of each tile in level-0 pixels; None if they are not known
    notes: tuple[tuple[str, Note], ...]  # what was missing, imputed or ignored, each with the stage it belongs to
    warnings: tuple[str, ...]
    warning_notes: tuple[Note, ...] = field(repr=False)  # the same warnings with what each is counted under
    demonstration: bool  # whether the weights were trained on simulated patients and mean nothing clinically
    group: str  # HIGH or LOW: risk above, or not above, the training cut (``Calibration.cut``)
    training_patient: bool | None  # whether the bundle was trained on this case; None: not known
    curve: SurvivalCurve | None = field(repr=False)

    def survival(self, months: ArrayLike) -> Floats:
        """Probability of no event by each of ``months`` [T]: [T].

        Constant after the last follow-up. Raises InputError for anything but finite months of at least 0, and
        BundleError if the bundle has no curves.

        >>> import survfuse
        >>> from contextlib import redirect_stdout
        >>> with redirect_stdout(None):  # demonstration weights announce themselves
        ...     model = survfuse.demonstration(device="cpu")
        >>> prediction = model.predict(survfuse.Case(clinical={"age": 71, "sex": "Male"}))
        >>> float(prediction.survival(0)[0])
        1.0
        """
        if self.curve is None:
            raise BundleError("the bundle has no survival curves")
        try:
            at = np.atleast_1d(np.asarray(months, dtype=np.float64))
        except (TypeError, ValueError) as cause:
            raise InputError("survival: expected months as numbers") from cause
        if at.ndim != 1 or not (np.isfinite(at) & (at >= 0.0)).all():
            raise InputError("survival: expected a list of months, finite and at least 0")
        survival: Floats = self.curve.survival([self.risk], at)[0]
        return survival
