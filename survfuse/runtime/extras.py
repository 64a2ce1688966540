"""Packages that only some commands need: the extras of ``pip install '.[…]'``."""

from importlib.util import find_spec

# Extra → the modules of its packages → the package, as pyproject.toml names it.
EXTRAS = {
    "train": {
        "jinja2": "jinja2",
        "joblib": "joblib",
        "lifelines": "lifelines",
        "pandas": "pandas",
        "scipy": "scipy",
        "sklearn": "scikit-learn",
        "sksurv": "scikit-survival",
        "tensorboard": "tensorboard",
        "threadpoolctl": "threadpoolctl",
    },
    "cluster": {"ray": "ray"},
    "tables": {"openpyxl": "openpyxl", "pyarrow": "pyarrow"},
}


def missing_packages(extra: str) -> list[str]:
    """The packages of ``extra`` that are not installed. Nothing is imported."""
    return [package for module, package in EXTRAS[extra].items() if find_spec(module) is None]


def extra_with(module: str | None) -> str | None:
    """The extra that brings ``module``; None if none does.

    >>> extra_with("sklearn.cluster"), extra_with("torch"), extra_with(None)
    ('train', None, None)
    """
    name = (module or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if name in modules), None)
