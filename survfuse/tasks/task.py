"""What a task is: its sockets, modalities, clinical rules, outcome and output.

Everything that is specific to one task is in a ``Task``; the rest of the package reads it from there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MASK = "mask"  # the key of the tissue mask's socket; the other sockets go by their modality
VECTOR = "vector"  # the modality of slide-level vectors: no socket gives one, and only some cohorts have them


@dataclass(frozen=True)
class Socket:
    """One input of the platform's interface."""

    slug: str
    place: str  # below the input folder: the folder of an image socket, the file of a JSON socket


@dataclass(frozen=True)
class OutcomeKeys:
    """How outcomes are named in a cohort's files, and which values are plausible."""

    event: str  # key in a patient's clinical JSON: 0 or 1
    time: str  # key in a patient's clinical JSON: months
    event_columns: tuple[str, ...]  # spellings of the event's column in a table, in lower case
    time_columns: tuple[str, ...]  # spellings of the time's column in a table, in lower case
    most_months: float  # a time of this or more is a slip, a code or in days

    @property
    def keys(self) -> tuple[str, str]:
        """The keys that never reach a model."""
        return self.event, self.time


@dataclass(frozen=True)
class CohortLayout:
    """Where a cohort's files lie below its root; ``{id}`` stands for the patient's."""

    name: str
    marks: tuple[str, ...]  # folders below the root by which the layout is recognised
    clinical: str
    expression: str
    features: tuple[str, ...]  # folders; of two files of one slide in different ones, the first folder's is read
    table: bool = False  # whether one CSV of outcomes at the root belongs to the layout
    coordinates: str = ""  # the folder of tiles' coordinates, <slide>.npy, that belong to torch files
    vectors: str = "slide_vectors"  # the folder of slide-level vectors

    @property
    def own_folders(self) -> bool:
        """Whether every patient has a separate folder, named by the patient's id, that also holds the slides."""
        return "/{id}/" in f"/{self.clinical}"

    def folder(self, patient: str) -> str:
        """The folder of a patient's clinical file, below the root."""
        return self.clinical.format(id=patient).rpartition("/")[0]


@dataclass(frozen=True)
class SimulatedTraits:
    """What the simulator lets the clinical variables of n patients depend on."""

    age: "NDArray[np.float64]"  # [n], standard normal
    advanced: "NDArray[np.bool_]"  # [n], whether the tumour is of an advanced stage
    invasive: "NDArray[np.bool_]"  # [n], whether it invades lymphatic or blood vessels
    programme: "NDArray[np.float64]"  # [n], activity of the first gene programme, standard normal


@dataclass(frozen=True)
class Task:
    """What is predicted, from which sockets, and how its files name things.

    ``modalities`` are among those that the package has readers and encoders for (``slide``, ``vector``, ``rna``,
    ``clinical``), in the order in which combinations, pairs and terms are written.
    """

    name: str
    modalities: tuple[str, ...]
    sockets: Mapping[str, Socket]  # by modality, and MASK
    output_file: str  # one bare number: months
    outcome: OutcomeKeys
    missing_codes: tuple[str, ...]  # of clinical variables, in lower case; null and an absent key count as well
    plausible: Mapping[str, tuple[float, float]]  # inclusive ranges of numeric clinical variables
    horizons: tuple[float, ...]  # months at which survival is stated and judged
    layouts: tuple[CohortLayout, ...]  # of cohorts on disk; the first is the one that ``simulate`` writes
    intended_use: str  # of models, for the model card
    simulated_variables: "Callable[[SimulatedTraits, np.random.Generator], Sequence[Mapping[str, str | int]]]"
    simulated_prefix: str = "P"  # of simulated patients' ids, before their number

    def __post_init__(self) -> None:
        known = {"slide", VECTOR, "rna", "clinical"}
        if not self.modalities or len(set(self.modalities)) < len(self.modalities) or not known >= set(self.modalities):
            raise ValueError(f"task {self.name}: expected distinct modalities among slide, vector, rna and clinical")
        lacking = [name for name in self.modalities if name not in self.sockets and name != VECTOR]
        if lacking:
            raise ValueError(f"task {self.name}: no socket for {', '.join(lacking)}")

    def with_vectors(self, slides: bool = True) -> "Task":
        """The same task with slide-level vectors as a modality of their own, after the slide or in its place."""
        others = [name for name in self.modalities if name not in ("slide", VECTOR)]
        slide = ["slide"] if slides and "slide" in self.modalities else []
        return replace(self, modalities=(*slide, VECTOR, *others))

    def without_vectors(self) -> "Task":
        """The same task without that modality."""
        return replace(self, modalities=tuple(name for name in self.modalities if name != VECTOR))
