"""The kinds of network by name: what each fuses, and which modalities it reads.

    bilinear            w · [B(M, r), B(M, c), B(r, c)] + b, the network of "Attention-Based Multimodal Survival
                        Prediction with Cross-Modal Bilinear Fusion" (arXiv 2605.13897)
    bilinear-residual   … with ReLU(W [M, r, c]) in addition to the pairs (same paper)
    slide+rna, …        … with only that pair (same paper)
    concat              w · [M, r, c] + b (same paper)
    tensor              outer product of [M; 1], [r; 1], [c; 1], then a perceptron (Zadeh et al. 2017)
    low-rank-tensor     that product against a weight of low rank, never formed (Liu et al. 2018)
    hierarchical        pairs first, then the pairs' own bilinear fusion
    slide, rna, vector  one modality: w · M + b, w · r + b, …
    clinical, cox-rna, cox-slide, cox-vector, cox-rna+clinical, cox-vector+clinical, cox
                        Cox's linear model of clinical variables, expression, shares of tile clusters, a slide-level
                        vector, two of them, all

M, r and c are the vectors of the slide, of expression and of the clinical variables; a slide-level vector adds one of
its own. Another task's families follow from its modalities in the same way. This table needs no torch; the networks
themselves are in ``build``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from survfuse.tasks.modalities import Combination, all_pairs, combination_name, ordered
from survfuse.tasks.task import VECTOR

BILINEAR, RESIDUAL, CONCAT = "bilinear", "bilinear-residual", "concat"
TENSOR, LOW_RANK_TENSOR, HIERARCHICAL = "tensor", "low-rank-tensor", "hierarchical"
COX = "cox"


@dataclass(frozen=True)
class Family:
    """A kind of network over some of a task's modalities."""

    name: str
    fusion: str  # BILINEAR, RESIDUAL, …: the network's class
    modalities: Combination  # that it reads, in the task's order
    task_modalities: Combination  # all of the task's: pairs' widths and availability masks follow their order

    @property
    def linear(self) -> bool:
        """Whether it is Cox's linear model, which is fitted as such and not by gradient steps."""
        return self.fusion == COX

    @property
    def multilinear(self) -> bool:
        """Whether the risk is affine in each modality's vector, given those of the others."""
        return self.fusion in (BILINEAR, CONCAT, LOW_RANK_TENSOR, COX)


@cache
def families_of(modalities: Combination) -> Mapping[str, Family]:
    """Every family that a task with these ``modalities`` has, by name; members are seeded by their order.

    >>> list(families_of(("slide",)))
    ['slide', 'cox-slide']
    """
    own = set(modalities)
    rows: list[tuple[str, str, Combination]] = []
    if len(modalities) > 1:
        rows += [(fusion, fusion, modalities) for fusion in (BILINEAR, RESIDUAL, CONCAT, TENSOR, LOW_RANK_TENSOR)]
    if len(modalities) > 2:
        rows.append((HIERARCHICAL, HIERARCHICAL, modalities))
    rows += [(name, CONCAT, (name,)) for name in modalities if name != "clinical"]
    rows += [(name, COX, (name,)) for name in modalities if name == "clinical"]
    if len(modalities) > 2:
        rows += [(combination_name(pair), BILINEAR, pair) for pair in all_pairs(modalities)]
    rows += [(f"cox-{name}", COX, (name,)) for name in ("rna", "slide", VECTOR) if name in own]
    for name in ("rna", VECTOR):
        if {name, "clinical"} < own:
            rows.append((f"cox-{name}+clinical", COX, ordered((name, "clinical"), modalities)))
    if len(modalities) > 1:
        rows.append((COX, COX, modalities))
    return {name: Family(name, fusion, read, modalities) for name, fusion, read in rows}


def family_number(family: Family) -> int:
    """The family's place among those of its task, by which its members are seeded.

    Families without slide-level vectors come first, so that they have the same number with and without that modality.
    """
    plain = tuple(name for name in family.task_modalities if name != VECTOR)
    return list({**families_of(plain), **families_of(family.task_modalities)}).index(family.name)
