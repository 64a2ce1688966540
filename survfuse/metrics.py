"""Measures of survival predictions, from scikit-survival."""

from numpy.typing import ArrayLike


def concordance(times: ArrayLike, events: ArrayLike, risks: ArrayLike) -> float:
    """Harrell's concordance of ``risks`` [n] (larger is worse) with outcomes, as the challenge computes it:
    tied risks count half. Raises sksurv's NoComparablePairException where no pair can be ordered."""
    import numpy as np
    from sksurv.metrics import concordance_index_censored

    return float(concordance_index_censored(np.asarray(events, dtype=bool), np.asarray(times), np.asarray(risks))[0])
