"""How members count in an ensemble, and the scale its risks are put on."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MemberWeight:
    """How a member counts under one combination: it adds weight · (risk − location) / scale to the ensemble's sum."""

    weight: float
    location: float
    scale: float


@dataclass(frozen=True)
class RiskScale:
    """What puts the members' sum, under one combination, on the reference risks' scale: (sum − location) / scale."""

    location: float
    scale: float
