"""The keys of ``case.json``."""

from typing import TypedDict

GIVEN, MISSING, UNKNOWN = "given", "missing", "unknown category"  # states of a variable


class Part(TypedDict):
    """One additive part of the risk."""

    name: str
    value: float
    sd: float | None  # spread over members of a family; None if no family has several
    told_from_zero: bool | None  # None if the spread is not known


class TilePart(Part):
    """What a tile adds; its name is its number, from 1 in the order of the bag."""

    x: int | None  # level-0 pixels of its first corner, if known
    y: int | None
    attention: float | None
    rank: int  # 1 raises the risk the most


class VariablePart(Part):
    """What a variable adds."""

    stated: str | None  # the patient's value as text
    state: str  # GIVEN, MISSING or UNKNOWN


class Group(TypedDict):
    """All parts of one kind."""

    number: int
    sum: float
    told_from_zero: int | None  # how many


class Genes(Group):
    """What genes add."""

    raising: list[Part]  # at most TOP, the largest first
    lowering: list[Part]


class Tiles(Group):
    """What tiles add."""

    raising: list[TilePart]
    lowering: list[TilePart]
    side: list[float] | None  # level-0 pixels, x and y, if the places are known
    mpp: list[float] | None  # µm per level-0 pixel, if known


class Variables(Group):
    """What variables add: each of them, the largest first."""

    all: list[VariablePart]


class Horizon(TypedDict):
    """Event-free survival by a number of months."""

    months: float
    event_free: float


class Predicted(TypedDict):
    """The prediction."""

    months: float
    beyond_last_event: bool  # where months only rank
    last_event: float | None  # month of the last event of the reference patients
    follow_up: float  # last month of the reference patients' follow-up
    risk: float
    risk_sd: float | None  # its spread, as of a part
    combination: str
    percentile: float  # share of the reference risks below, in percent
    reference_risks: int  # how many
    survival: list[Horizon]  # empty if the bundle has no curves


class Model(TypedDict):
    """What explained the case."""

    survfuse: str  # version
    folder: str  # the bundle's name
    sha256: str  # of its manifest, which holds those of all its files
    purpose: str
    notice: str
    members: int  # that score the combination
    families: dict[str, int]  # members of each


class Said(TypedDict):
    """A note with the stage that it belongs to."""

    stage: str
    text: str


class Record(TypedDict):
    """An explanation; numbers are finite or None."""

    schema: str
    case: str
    model: Model
    prediction: Predicted
    risks: dict[str, float]  # by combination of modalities
    modality_values: dict[str, float] | None
    expected: float  # where the modalities' values begin
    reference: str  # the patient that the parts are relative to
    baseline: Part  # that patient's risk
    tiles: Tiles | None
    vector: Part | None  # of the slide-level vector as a whole
    genes: Genes | None
    variables: Variables | None
    joint: list[Part]
    notes: list[Said]  # what was missing, imputed or ignored
    warnings: list[str]
