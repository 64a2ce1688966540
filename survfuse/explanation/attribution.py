"""An ensemble's risk of one case as a sum of parts: of tiles, genes, variables, a whole vector, and joint ones."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from survfuse.explanation.member_parts import Point, member_parts
from survfuse.explanation.reference_patient import ReferencePatient
from survfuse.networks.ensemble import Ensemble, Tensors
from survfuse.networks.families import Family
from survfuse.networks.online_softmax import Pool
from survfuse.networks.terms import Term, in_order
from survfuse.runtime.arrays import Floats
from survfuse.runtime.waiting import one_thread
from survfuse.tasks.modalities import Combination, ordered
from survfuse.tasks.task import VECTOR

TOLERANCE = 1e-4  # of integrated gradients, in standard deviations of a member's risks


@dataclass(frozen=True, eq=False)
class Parts:
    """Additive parts of a risk, and how they spread over the ensemble's members."""

    values: Floats  # [K], in units of the risk
    spread: Floats | None  # [K], standard deviation over members of one family; None if no family has several


@dataclass(frozen=True, eq=False)
class Attribution:
    """risk = baseline + Σ tiles + vector + Σ genes + Σ variables + Σ joint, relative to the average reference patient.

    The baseline is that patient's risk. What the case lacks has no part, and what the ensemble does not read either.
    """

    baseline: Parts  # [1]
    tiles: Parts | None  # [N]
    vector: Parts | None  # [1], of the slide-level vector as a whole: its numbers have no names
    genes: Parts | None  # [G]
    variables: Parts | None  # [V], clinical
    joint: Mapping[str, Parts]  # [1] each, by name, as in "slide × rna"
    attention: Floats | None  # [N], weighted mean over the members that look at the slide; sums to 1
    risk_spread: float | None  # of the risk over members, as of its parts

    @property
    def total(self) -> float:
        """The sum of the baseline and all parts."""
        parts = [self.baseline, self.tiles, self.vector, self.genes, self.variables, *self.joint.values()]
        return float(sum(part.values.sum() for part in parts if part is not None))


def attribute(
    ensemble: Ensemble,
    case: Tensors,
    pools: Sequence[Pool | None],
    reference: ReferencePatient,
    columns: Sequence[int] = (),
) -> Attribution:
    """Divide the ensemble's risk of ``case``, whose tiles are in ``pools``, relative to ``reference``.

    ``columns`` are the numbers of entries that each variable has in the clinical vector, in order.

    Raises InputError for a combination of modalities that the ensemble was not trained to score.
    """
    combination = ordered(case.given, ensemble.modalities)
    scale, scoring = ensemble.scale(combination), ensemble.scoring(combination)
    starts = np.cumsum([0, *columns[:-1]])  # of the variables, among the columns
    total = sum(each.weight.weight for each in scoring)
    means: defaultdict[str | Combination, _Mean] = defaultdict(_Mean)
    looks: list[_Look] = []
    for each in scoring:
        family, weight, pool = each.network.family, each.weight, pools[each.place] if case.tiles is not None else None
        # The ensemble's parts are the mean, by weight, of its members' on the ensemble's scale.
        share, unit = weight.weight / total, total / (weight.scale * scale.scale)
        slide, attention = (result[0].clone() for result in pool.result()) if pool is not None else (None, None)
        own = Point(slide, case.rna, case.clinical, case.vector)
        other = Point(reference.slides[each.place], reference.rna, reference.clinical, reference.vector)
        with one_thread():
            parts = member_parts(each.network, own, other, TOLERANCE * weight.scale)
        means["baseline"].add(family, share, unit * (parts.baseline - weight.location) - scale.location / scale.scale)
        if parts.genes is not None:
            means["genes"].add(family, share, unit * parts.genes.numpy())
        if parts.columns is not None:
            means["variables"].add(family, share, unit * np.add.reduceat(parts.columns.numpy(), starts))
        if parts.vector is not None:
            means[VECTOR].add(family, share, unit * parts.vector)
        for modalities, value in parts.joint.items():
            means[modalities].add(family, share, unit * value)
        means["risk"].add(family, share, unit * (parts.total - weight.location))
        if pool is not None and attention is not None and parts.slope is not None and other.slide is not None:
            offset = float(parts.slope @ other.slide.double())
            looks.append(_Look(family, pool, attention, parts.slope, offset, share, unit))
    joint = {Term(key).name(key) or "": mean.parts() for key, mean in means.items() if isinstance(key, tuple)}
    risk_spread = means["risk"].parts().spread
    return Attribution(
        baseline=means["baseline"].parts(),
        tiles=_tiles(ensemble, case, looks) if looks else None,
        vector=means[VECTOR].parts() if VECTOR in means else None,
        genes=means["genes"].parts() if "genes" in means else None,
        variables=means["variables"].parts() if "variables" in means else None,
        joint={name: joint[name] for name in in_order(joint, ensemble.modalities)},
        attention=_mean_attention(looks),
        risk_spread=float(risk_spread[0]) if risk_spread is not None else None,
    )


class _Mean:
    """Parts averaged over members, by weight; members without such a part count with 0.

    The spread takes members of one family together: they differ only in the patients that they were fitted to, whereas
    families are different models that the weights make one of.
    """

    def __init__(self) -> None:
        self._sums: dict[Family, tuple[int, float, Floats, Floats]] = {}

    def add(self, family: Family, share: float, values: Floats | float) -> None:
        """Add a member of ``family`` that has ``share`` of all weights, with its ``values`` [K] or one value."""
        values = np.atleast_1d(np.asarray(values, dtype=np.float64))
        zero = np.zeros_like(values)
        number, shares, first, second = self._sums.get(family, (0, 0.0, zero, zero))
        self._sums[family] = (number + 1, shares + share, first + share * values, second + share * values**2)

    def parts(self) -> Parts:
        """The mean, and the standard deviation of a sum of one member of each family, if a family has several."""
        mean = np.sum([first for _, _, first, _ in self._sums.values()], axis=0)
        if all(number == 1 for number, _, _, _ in self._sums.values()):
            return Parts(mean, None)
        # With w the family's share: w² (Σ shares · values² / w − (Σ shares · values / w)²).
        variances = [shares * second - first**2 for _, shares, first, second in self._sums.values()]
        return Parts(mean, np.sqrt(np.sum(np.maximum(variances, 0.0), axis=0)))


@dataclass(frozen=True)
class _Look:
    """A member that looks at the slide: tile n adds attention_n · (slope · z_n − offset), in the member's units."""

    family: Family
    pool: Pool
    attention: Tensor  # [N]
    slope: Tensor  # [width]
    offset: float
    share: float  # of all members' weights
    unit: float  # of the member's risks, on the ensemble's scale


def _tiles(ensemble: Ensemble, case: Tensors, looks: Sequence[_Look]) -> Parts:
    """What each tile adds [N], averaged over members."""
    assert case.tiles is not None
    at, values, spreads = 0, list[Floats](), list[Floats]()
    with torch.inference_mode():
        for part in ensemble.parts_of(case.tiles):
            mean = _Mean()
            for look in looks:
                attention = look.attention[at : at + len(part)].double()
                own = look.unit * attention * (look.pool.along(part, look.slope) - look.offset)
                mean.add(look.family, look.share, own.numpy())
            found = mean.parts()
            values.append(found.values)
            spreads += [found.spread] if found.spread is not None else []
            at += len(part)
    return Parts(np.concatenate(values), np.concatenate(spreads) if spreads else None)


def _mean_attention(looks: Sequence[_Look]) -> Floats | None:
    """The members' mean attention [N], by weight."""
    if not looks:
        return None
    weighted = sum(look.share * look.attention.double() for look in looks)
    assert isinstance(weighted, Tensor)
    attention: Floats = (weighted / sum(look.share for look in looks)).numpy()
    return attention
