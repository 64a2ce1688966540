"""Which tables a cohort is in."""

from dataclasses import dataclass
from pathlib import Path

from survfuse.runtime.errors import InputError
from survfuse.runtime.suggestions import unknown
from survfuse.tasks.task import VECTOR, Task

MAX, MEAN, SUM = "max", "mean", "sum"
DUPLICATES = (MAX, MEAN, SUM)


@dataclass(frozen=True)
class CohortTables:
    """The tables of a cohort; None for a modality that it does not have.

    Paths may be text. Raises InputError for a choice of ``duplicates`` that there is not, and for one file that is to
    be both clinical variables and expression.

    >>> tables = CohortTables(clinical=Path("clinical.csv"), expression=Path("expression.tsv.gz"))
    >>> str(tables)
    'clinical.csv, expression.tsv.gz'
    """

    slides: Path | None = None  # patient, file: feature files, or slides to extract features from
    clinical: Path | None = None  # patient, and a column for each variable
    expression: Path | None = None  # genes × patients or the reverse
    duplicates: str | None = None  # how several rows of one gene are merged: one of DUPLICATES; None: an error
    vectors: Path | None = None  # patient, file: slide-level vectors

    def __post_init__(self) -> None:
        for name in ("slides", "clinical", "expression", "vectors"):
            path = getattr(self, name)
            object.__setattr__(self, name, Path(path) if path is not None else None)  # text is taken as well
        if self.duplicates not in (None, *DUPLICATES):
            raise InputError(unknown("choice", str(self.duplicates), DUPLICATES))
        if self.clinical is not None and self.expression is not None and _same(self.clinical, self.expression):
            raise InputError(f"{self.expression}: one file of clinical variables and expression; divide it into two")

    def modalities(self, task: Task) -> tuple[str, ...]:
        """The modalities of ``task`` that there is a table of.

        >>> from survfuse.tasks.registry import DEFAULT
        >>> CohortTables(expression=Path("expression.tsv.gz")).modalities(DEFAULT)
        ('rna',)
        """
        return tuple(name for name in task.modalities if self.of(name) is not None)

    def of(self, modality: str) -> Path | None:
        """The table of a modality: slide, vector, rna or clinical.

        >>> CohortTables(expression=Path("expression.tsv.gz")).of("rna").name
        'expression.tsv.gz'
        """
        tables = {"slide": self.slides, VECTOR: self.vectors, "rna": self.expression, "clinical": self.clinical}
        return tables[modality]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The tables that there are."""
        every = (self.slides, self.vectors, self.clinical, self.expression)
        return tuple(path for path in every if path is not None)

    def __str__(self) -> str:
        """The tables' names, as messages begin with."""
        return ", ".join(path.name for path in self.paths)


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)
