"""Survival prediction from a slide, bulk expression and clinical variables.

    import survfuse
    model = survfuse.load("model")                    # or survfuse.demonstration()
    prediction = model.predict("test/input/interf0")  # or survfuse.Case(slide=…, mask=…, rna={…}, clinical={…})
    model.explain("test/input/interf0", out="explanation")  # why: a page, maps of tiles, a table
    prediction.months, prediction.risk, prediction.terms, prediction.survival([12, 24, 60]), prediction.warnings

Names are imported when they are first used, so that a job starts without what only training needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from survfuse.api import demonstration, evaluate, explain, extract, load, train
    from survfuse.cohort.table_paths import CohortTables
    from survfuse.explanation.explanation import Explanation
    from survfuse.inputs.case import Case
    from survfuse.model import Model
    from survfuse.prediction.prediction import Prediction
    from survfuse.runtime.errors import BundleError, EnvironmentFailure, InputError, NoTissueError, SurvfuseError
    from survfuse.workers.settings import Cluster

__version__ = "0.1.0"

_MODULES = {
    **dict.fromkeys(("load", "demonstration", "train", "evaluate", "extract", "explain"), "survfuse.api"),
    "Case": "survfuse.inputs.case",
    "Cluster": "survfuse.workers.settings",
    "CohortTables": "survfuse.cohort.table_paths",
    "Explanation": "survfuse.explanation.explanation",
    "Model": "survfuse.model",
    "Prediction": "survfuse.prediction.prediction",
    **dict.fromkeys(
        ("SurvfuseError", "InputError", "NoTissueError", "BundleError", "EnvironmentFailure"),
        "survfuse.runtime.errors",
    ),
}
__all__ = [
    "BundleError",
    "Case",
    "Cluster",
    "CohortTables",
    "EnvironmentFailure",
    "Explanation",
    "InputError",
    "Model",
    "NoTissueError",
    "Prediction",
    "SurvfuseError",
    "demonstration",
    "evaluate",
    "explain",
    "extract",
    "load",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'survfuse' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
