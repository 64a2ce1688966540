"""What a member does to its inputs: genes selected, standardised and rotated using only its fitted patients.

Both maps are affine. A frozen member carries them as its first, fixed layers, so that it takes the bundle's inputs.
There is one difference: a gene that a patient lacks has the fitted patients' mean in training, and the cohort's mean in
the bundle.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor

from survfuse.inputs.clinical import Vocabulary
from survfuse.runtime.arrays import Bools, Floats
from survfuse.training.protocol import NONE, VARIANCE


@dataclass(frozen=True)
class ComponentMap:
    """Expression as the bundle gives it [G], or a slide-level vector, → the components [K] that a network takes.

    Genes, or a vector's numbers, are standardised, those not selected get no weight, and the rest is rotated onto the
    principal axes of the fitted patients. The rotation loses nothing that the patients can teach: a layer's gradient
    lies in the space that their inputs span, and n patients span at most n − 1 axes of thousands. It makes the first
    layer a hundred times smaller, and removes the directions in which a layer would keep its random initial values.
    """

    offset: Floats  # [G], the fitted patients' mean
    factor: Floats  # [G], one over their standard deviation; 0 for a gene without weight
    axes: Floats  # [K, G], orthonormal rows

    @classmethod
    def fit(cls, rna: Floats, chosen: Bools, components: int) -> "ComponentMap":
        """The map by the fitted patients' expression ``rna`` [n, G], or slide-level vectors, NaN where absent.

        Only the ``chosen`` [G] genes can have a weight. A gene in which fewer than two patients, or fewer than one in
        fifty, differ from the others has none: a scale learnt from so few would give extreme values to new patients
        who differ.
        """
        known = ~np.isnan(rna)
        number = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, rna, 0.0).sum(axis=0) / number
        scale = np.sqrt((np.where(known, rna - mean, 0.0) ** 2).sum(axis=0) / number)
        weighted = chosen & varying(rna)
        factor = np.where(weighted, 1.0 / np.where(weighted, scale, 1.0), 0.0)
        standard = np.where(known, (rna - mean) * factor, 0.0)
        return cls(mean, factor, principal_axes(standard, components))

    def apply(self, rna: Floats) -> Tensor:
        """Components [n, K] float32 of ``rna`` [n, G]; an absent gene (NaN) takes the fitted patients' mean."""
        standard = np.where(np.isnan(rna), 0.0, (rna - self.offset) * self.factor)
        return torch.from_numpy(standard @ self.axes.T).float()

    def layer(self) -> tuple[Tensor, Tensor]:
        """Weight [K, G] and bias [K] of the same map as one linear layer."""
        weight = self.axes * self.factor
        return torch.from_numpy(weight).float(), torch.from_numpy(-weight @ self.offset).float()


@dataclass(frozen=True)
class ClinicalMap:
    """The bundle's clinical vector [C] → the same, standardised by the fitted patients [C]."""

    matrix: Floats  # [C, C]
    offset: Floats  # [C]

    @classmethod
    def fit(cls, clinical: Floats, vocabulary: Vocabulary) -> "ClinicalMap":
        """The map by the fitted patients' vectors ``clinical`` [n, C].

        Constant columns, and numbers that hardly vary, get no weight.
        """
        columns = {name: place for place, name in enumerate(vocabulary.columns)}
        matrix = np.diag((np.ptp(clinical, axis=0) > 0.0).astype(np.float64))
        offset = np.zeros(len(columns))
        for variable in vocabulary.numeric:
            place, missing = columns[variable.name], columns[f"{variable.name} missing"]
            present = clinical[clinical[:, missing] == 0.0, place]
            if not varying(present[:, None])[0]:
                matrix[place, place] = 0.0
                continue
            # (x − mean) / scale where x is known. Where it is not, the missing column is 1 and adds the mean back.
            matrix[place, place] = 1.0 / present.std()
            offset[place] = -present.mean() / present.std()
            matrix[place, missing] = -offset[place]
        return cls(matrix, offset)

    def apply(self, clinical: Floats) -> Tensor:
        """Standardised vectors [n, C] float32 of ``clinical`` [n, C]."""
        return torch.from_numpy(clinical @ self.matrix.T + self.offset).float()

    def layer(self) -> tuple[Tensor, Tensor]:
        """Weight [C, C] and bias [C] of the same map as one linear layer."""
        return torch.from_numpy(self.matrix).float(), torch.from_numpy(self.offset).float()


@dataclass(frozen=True)
class InputMaps:
    """A member's maps; None for a modality that the cohort does not have."""

    expression: ComponentMap | None
    clinical: ClinicalMap | None
    vector: ComponentMap | None


def varying(values: Floats) -> Bools:
    """Which columns [G] of ``values`` [n, G] differ enough from their median to learn a scale from.

    Values may be NaN where absent. At least two, and one in fifty, of those that are known must differ.

    >>> varying(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [2.0, 3.0]])).tolist()
    [False, True]
    """
    if len(values) == 0:
        return np.zeros(values.shape[1], dtype=bool)
    known = ~np.isnan(values)
    number = known.sum(axis=0)
    placed = np.sort(values, axis=0)  # NaN last
    below = np.clip((number - 1) // 2, 0, None)
    above = np.clip(number // 2, 0, len(values) - 1)
    columns = np.arange(values.shape[1])
    median = (placed[below, columns] + placed[above, columns]) / 2.0
    differing = (known & (values != median)).sum(axis=0)
    enough: Bools = differing >= np.maximum(2.0, number / 50.0)
    return enough


def choose_genes(rna: Floats, spread: Floats, rule: str, most: int, outcomes: tuple[Floats, Bools]) -> Bools:
    """Which genes [G] have a weight, by the fitted patients' expression ``rna`` [n, G], NaN where absent.

    ``rule``: ``none`` takes all genes; ``variance`` the ``most`` with the largest variance before standardising;
    ``cox-score`` the ``most`` with the largest score statistic of a Cox model of that gene alone. ``spread`` [G] is
    the cohort's scale that the values were divided by; ``outcomes`` are the patients' times [n] in months and
    events [n].
    """
    if rule == NONE or most >= rna.shape[1]:
        return np.ones(rna.shape[1], dtype=bool)
    filled = np.where(np.isnan(rna), np.nanmean(np.where(np.isnan(rna).all(axis=0), 0.0, rna), axis=0), rna)
    merit = filled.var(axis=0) * spread**2 if rule == VARIANCE else _score_statistic(filled, *outcomes)
    chosen = np.zeros(rna.shape[1], dtype=bool)
    chosen[np.argsort(-merit, kind="stable")[:most]] = True
    return chosen


def _score_statistic(values: Floats, times: Floats, events: Bools) -> Floats:
    """Score test [G] of Cox's model for each column of ``values`` [n, G], ties by Breslow."""
    order = np.argsort(-times, kind="stable")
    ordered, happened = values[order], events[order]
    last = np.searchsorted(-times[order], -times[order], side="right") - 1
    number = np.arange(1, len(times) + 1)[:, None]
    mean, square = np.cumsum(ordered, axis=0) / number, np.cumsum(ordered**2, axis=0) / number
    at_event = last[happened]
    score = (ordered[happened] - mean[at_event]).sum(axis=0)
    information = (square[at_event] - mean[at_event] ** 2).sum(axis=0)
    return np.where(information > 1e-12, score**2 / np.maximum(information, 1e-12), 0.0)


def principal_axes(standard: Floats, components: int) -> Floats:
    """The first principal axes [components, G] of centred rows [n, G].

    Rows are orthonormal as far as the data have dimensions, and zero beyond. They come from the Gram matrix of the
    data's rows, which is small if there are more genes than patients.
    """
    number = len(standard)
    gram = standard @ standard.T
    values, vectors = eigh(gram, subset_by_index=(max(0, number - components), number - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    sound = values > 1e-9 * max(float(values[0]), 1e-300)
    axes = np.zeros((components, standard.shape[1]))
    scaled = vectors[:, sound] / np.sqrt(values[sound])
    # The sign of an axis is arbitrary; its largest weight among patients is made positive.
    scaled *= np.sign(scaled[np.abs(scaled).argmax(axis=0), np.arange(scaled.shape[1])])
    axes[: scaled.shape[1]] = scaled.T @ standard
    return axes
