"""Cox's linear model with a ridge penalty, fitted by scikit-survival: the family ``cox`` and its parts."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from threadpoolctl import threadpool_limits
from torch import Tensor

from survfuse.cohort.bags import Bag
from survfuse.networks.cox import cluster_shares
from survfuse.networks.families import FAMILIES
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import InputError
from survfuse.survival.partial_likelihood import EfronLoss
from survfuse.tasks.modalities import Combination, all_combinations
from survfuse.training.folds import Rows
from survfuse.training.input_maps import varying
from survfuse.training.member import Fitted, Prepared

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
# Beside clinical variables, what else there is may count for less, or for more: how many times its scale.
RATIOS = (0.25, 1.0, 4.0)
COMPONENTS = 40  # of expression, beside other modalities
_TILES_CLUSTERED = 64  # of each patient
_LEAST_SPREAD = 0.01  # of a cluster's shares of tiles: what varies less is not blown up to the others' scale


@dataclass(frozen=True)
class Clusters:
    """Tile clusters of a fold, by its training patients' tiles, and every patient's shares of them."""

    centres: Tensor  # [K, D]
    shares: Tensor  # [n, K]

    @classmethod
    def fit(cls, bags: Sequence[Bag], training: Rows, number: int, seed: int) -> "Clusters":
        random = np.random.default_rng(seed)
        drawn = []
        for row in training:
            bag = bags[row]
            most = min(_TILES_CLUSTERED, bag.tiles)
            drawn.append(bag.rows(np.sort(random.choice(bag.tiles, most, replace=False))).numpy())
        tiles = np.concatenate(drawn)
        # One thread: the sums behind the clusters come out in one order on every machine.
        with threadpool_limits(1):
            found = KMeans(min(number, len(tiles)), n_init=3, random_state=seed).fit(tiles).cluster_centers_
        centres = torch.from_numpy(found).float()
        if len(centres) < number:
            centres = torch.cat([centres, centres[:1].expand(number - len(centres), -1)])
        return cls(centres, torch.stack([bag_shares(bag, centres) for bag in bags]))


def bag_shares(bag: Bag, centres: Tensor) -> Tensor:
    """Share of a bag's tiles nearest to each centre [K], read in chunks."""
    total = torch.zeros(len(centres))
    for tiles in bag.chunks(8192):
        total += cluster_shares(tiles[None], None, centres)[0][0] * len(tiles)
    return total / bag.tiles


def fit_fold(
    family: str,
    members: Sequence[Prepared],
    clusters: Clusters | None,
    times: Floats,
    events: NDArray[np.bool_],
) -> tuple[list[Fitted], float]:
    """Fit ``members`` of one fold with one penalty, that which predicts their inner patients best, together.

    Returns them and that penalty. A model of clinical variables and others has one penalty for the former and one for
    the rest.
    """
    modalities = FAMILIES[family].modalities
    inner = EfronLoss([(times[m.split.inner], events[m.split.inner]) for m in members])
    longest = max(len(member.split.inner) for member in members)
    events_inside = np.array([events[m.split.inner].sum() for m in members])
    designs: dict[float, list[_Design]] = {}
    steps: list[_Step] = []
    for ratio in RATIOS if len(modalities) > 1 and "clinical" in modalities else (1.0,):
        designs[ratio] = [_design(family, member, clusters, ratio) for member in members]
        for penalty in PENALTIES:
            weights = [_ridge_cox(*design.fitted(times, events), penalty) for design in designs[ratio]]
            if any(weight is None for weight in weights):
                continue
            risks = torch.zeros(len(members), longest, dtype=torch.float64)
            for place, (design, weight) in enumerate(zip(designs[ratio], weights, strict=True)):
                found = design.standard[design.member.split.inner] @ weight
                risks[place, : len(found)] = torch.from_numpy(found)
            steps.append(_Step(ratio, penalty, weights, inner(risks).numpy()))
    if not steps:
        raise InputError(f"{family}: no penalty up to {PENALTIES[-1]:g} gives a finite solution")
    best = min(steps, key=lambda step: float(step.losses @ events_inside))
    fitted = []
    for place in range(len(members)):
        judged = [designs[step.ratio][place].judged(step.weights[place]) for step in steps]
        together = {combination: torch.stack([risks[combination] for risks in judged]) for combination in judged[0]}
        losses = tuple(float(step.losses[place]) for step in steps)
        state = designs[best.ratio][place].state(best.weights[place])
        fitted.append(Fitted(state, 0, (), losses, together))
    return fitted, best.penalty


@dataclass(frozen=True)
class _Step:
    """One pair of penalties tried."""

    ratio: float
    penalty: float
    weights: list[Floats]  # of each member
    losses: Floats  # [members] of their inner patients


@dataclass(frozen=True)
class _Design:
    """Covariates of every patient, standardised by a member's fitted patients, and the way back to raw vectors."""

    member: Prepared
    widths: dict[str, int]
    centres: Tensor | None
    mean: Floats  # [F]
    factor: Floats  # [F], one over the scale; 0 for a constant
    standard: Floats  # [n, F]

    def fitted(self, times: Floats, events: NDArray[np.bool_]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        rows = self.member.split.fitted
        return self.standard[rows], times[rows], events[rows]

    def judged(self, weight: Floats) -> dict[Combination, Tensor]:
        """Risks [inner patients] by weights [F]; a missing modality stands at its mean, 0."""
        values = self.standard[self.member.split.inner]
        of_block = np.repeat(np.arange(len(self.widths)), list(self.widths.values()))
        found = {}
        for combination in all_combinations(self.widths):
            given = np.isin(of_block, [list(self.widths).index(name) for name in combination])
            found[combination] = torch.from_numpy(values[:, given] @ weight[given])
        return found

    def state(self, weight: Floats) -> dict[str, Tensor]:
        """The network's tensors for weights [F] of the standardised covariates."""
        raw = weight * self.factor
        state = {
            "risk.weight": torch.from_numpy(raw).float()[None],
            "risk.bias": torch.tensor([-float(raw @ self.mean)]),
        }
        at = 0
        for name, width in self.widths.items():
            state[f"means.{name}"] = torch.from_numpy(self.mean[at : at + width]).float()
            at += width
        return state | ({"centres": self.centres} if self.centres is not None else {})


def _design(family: str, member: Prepared, clusters: Clusters | None, ratio: float) -> _Design:
    modalities = FAMILIES[family].modalities
    rows = member.split.fitted
    blocks, scales = {}, []
    for modality in modalities:
        if modality == "slide":
            assert clusters is not None
            values = clusters.shares.double().numpy()
            # A cluster that hardly anybody has would blow up whoever has it next.
            spread = np.maximum(values[rows].std(axis=0), _LEAST_SPREAD)
            scale = np.where(varying(values[rows]), spread, 0.0) / ratio
        elif modality == "rna":
            assert member.rna is not None
            values = member.rna.double().numpy()
            # All components share the first one's scale: the penalty is then ridge's over the genes.
            scale = np.full(values.shape[1], values[rows].std(axis=0).max() / ratio)
        else:
            assert member.clinical is not None
            values = member.clinical.double().numpy()
            scale = (values[rows].std(axis=0) > 0.0).astype(np.float64)  # standardised already; categories as they are
        blocks[modality] = values
        scales.append(scale)
    raw, scale = np.concatenate(list(blocks.values()), axis=1), np.concatenate(scales)
    mean, factor = raw[rows].mean(axis=0), np.where(scale > 1e-9, 1.0 / np.where(scale > 1e-9, scale, 1.0), 0.0)
    widths = {name: values.shape[1] for name, values in blocks.items()}
    centres = clusters.centres if clusters is not None and "slide" in modalities else None
    return _Design(member, widths, centres, mean, factor, (raw - mean) * factor)


def _ridge_cox(values: Floats, times: Floats, events: NDArray[np.bool_], penalty: float) -> Floats | None:
    """Weights [F] of the ridge Cox model, or None where so weak a penalty has no finite solution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence: a solution that is not finite is refused below
        try:
            model = CoxPHSurvivalAnalysis(alpha=penalty, ties="efron").fit(values, Surv.from_arrays(events, times))
        except (ValueError, np.linalg.LinAlgError):
            return None
    return model.coef_ if np.isfinite(model.coef_).all() else None
