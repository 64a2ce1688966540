"""The reference's two pickles, for a user who trusts them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from survfuse.runtime.errors import EnvironmentFailure, InputError, as_survfuse_error
from survfuse.runtime.log import count, warn
from survfuse.runtime.suggestions import check_is_file

_SUFFIXES = (".pkl", ".pickle", ".joblib")


def is_pickle(path: Path) -> bool:
    """Whether ``path`` is a pickle by its suffix, or by its first byte, with which no JSON begins.

    Raises InputError if there is no such file.
    """
    check_is_file(path)
    with path.open("rb") as file:
        return path.suffix.lower() in _SUFFIXES or file.read(1) == b"\x80"


def unpickled(path: Path, trust: bool) -> object:
    """The content of a pickle, read by joblib, which takes the ``train`` extra.

    Raises InputError unless the user trusts it and it can be read.
    """
    if not trust:
        raise InputError(
            f"{path.name}: a pickle, and reading one can run any code that its author put there; "
            "give the table as JSON, or pass --trust-pickles if you trust where the file comes from"
        )
    warn(f"{path.name}: reading a pickle, which can run any code, because of --trust-pickles")
    import joblib
    import sklearn  # noqa: F401  (what the pickles hold; without it joblib fails in many ways)

    try:
        content: object = joblib.load(path)
    except Exception as cause:
        # Arbitrary bytes can make the unpickler fail in any way; a failure of the machine is passed on.
        if isinstance(as_survfuse_error(cause), EnvironmentFailure):
            raise
        raise InputError(
            f"{path.name}: cannot be read as a pickle ({type(cause).__name__}: {str(cause)[:200]})"
        ) from cause
    return content


def preprocessor_json(path: Path, value: object) -> dict[str, object]:
    """The reference's preprocessor, (numeric names, categorical names, ColumnTransformer), in its JSON form.

    ``path`` is for messages. Raises InputError for a preprocessor whose columns are anything but standardised numbers
    followed by one-hot categories.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if not isinstance(value, tuple | list) or len(value) != 3 or not isinstance(value[2], ColumnTransformer):
        raise InputError(f"{path.name}: expected (numeric names, categorical names, ColumnTransformer)")
    numeric, categorical = (_names(path, names) for names in value[:2])
    steps = [step for step in getattr(value[2], "transformers_", ()) if not _dropped(step[1])]
    expected = [("num", StandardScaler, numeric), ("cat", OneHotEncoder, categorical)]
    fits = len(steps) == 2 and value[2].transformer_weights is None
    for (name, step, columns), (label, kind, names) in zip(steps, expected, strict=False):
        fits = fits and name == label and type(step) is kind and _names(path, columns) == names
    if not fits:
        raise InputError(
            f"{path.name}: expected a fitted StandardScaler 'num' and a OneHotEncoder 'cat', in this order"
        )
    (_, scaler, _), (_, encoder, _) = steps
    return {
        "numeric": [
            {"name": name, "mean": mean, "scale": scale}
            for name, mean, scale in zip(numeric, *_statistics(path, scaler, len(numeric)), strict=True)
        ],
        "categorical": [
            {"name": name, "categories": categories}
            for name, categories in zip(categorical, _categories(path, encoder, len(categorical)), strict=True)
        ],
    }


def calibration_json(path: Path, value: object) -> dict[str, object]:
    """The arrays of the reference's calibration as lists by name; raises InputError for anything else."""
    if not isinstance(value, Mapping):
        kind = type(value).__name__
        raise InputError(f"{path.name}: expected km_times, km_probs and train_risks by name, found {kind}")
    try:
        return {str(name): np.asarray(numbers).tolist() for name, numbers in value.items()}
    except ValueError as cause:  # rows of unequal length
        raise InputError(f"{path.name}: expected arrays ({cause})") from cause


def _dropped(step: object) -> bool:
    return isinstance(step, str) and step == "drop"


def _names(path: Path, value: Any) -> list[str]:
    names = list(value) if isinstance(value, list | tuple | np.ndarray) or hasattr(value, "tolist") else [None]
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path.name}: expected columns by name")
    return [str(name) for name in names]


def _statistics(path: Path, scaler: Any, length: int) -> tuple[list[float], list[float]]:
    """Means and scales of a StandardScaler that uses both."""
    # A scaler that is told not to subtract the mean has one all the same.
    uses_both = scaler.with_mean and scaler.with_std
    statistics = [
        numbers.astype(np.float64).tolist()
        for numbers in (getattr(scaler, name, None) for name in ("mean_", "scale_"))
        if isinstance(numbers, np.ndarray) and numbers.shape == (length,)
    ]
    if not uses_both or len(statistics) != 2:
        raise InputError(f"{path.name}: expected a mean and a scale for each of {count(length, 'number')}")
    return statistics[0], statistics[1]


def _categories(path: Path, encoder: Any, length: int) -> Sequence[list[object]]:
    """The categories of each variable, from a OneHotEncoder with a column for each and zeros for unknown ones."""
    categories = getattr(encoder, "categories_", ())
    # A pickle lacks the attributes that its release of scikit-learn did not know yet.
    plain = all(getattr(encoder, name, None) is None for name in ("drop_idx_", "min_frequency", "max_categories"))
    if encoder.handle_unknown != "ignore" or not plain or len(categories) != length:
        raise InputError(f"{path.name}: expected a column for every category, and unknown ones ignored")
    return [np.asarray(names).tolist() for names in categories]
