"""Measures of survival predictions, from scikit-survival."""

import numpy as np
from numpy.typing import ArrayLike
from sksurv.exceptions import NoComparablePairException
from sksurv.metrics import concordance_index_censored


def concordance(times: ArrayLike, events: ArrayLike, risks: ArrayLike) -> float:
    """Harrell's concordance of ``risks`` [n] (larger is worse) with outcomes, as the challenge computes it:
    tied risks count half. NaN where no pair of patients can be ordered by their outcomes."""
    happened = np.asarray(events, dtype=bool)
    try:
        return float(concordance_index_censored(happened, np.asarray(times), np.asarray(risks))[0])
    except NoComparablePairException:
        return float("nan")
