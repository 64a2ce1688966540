"""How exactly the parts of an explanation add up to the risk: every family, every combination of modalities.

python benchmarks/completeness.py

Ten members of each family with random weights at the paper's sizes, twenty random cases of 64 tiles.
"""

import material
import numpy as np
import torch

from survfuse.bundle.load import load, load_members
from survfuse.explanation.attribution import attribute
from survfuse.explanation.reference_patient import ReferencePatient
from survfuse.networks.ensemble import Ensemble, Member, Tensors
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.tasks.modalities import all_combinations, combination_name

CASES, TILES = 20, 64


def main() -> None:
    members = load_members(load(material.every_family_bundle()))
    print("| family | combinations | exact | largest difference / max(1, |risk|) |\n|---|---|---|---|")
    for family in dict.fromkeys(member.family for member in members):
        combinations = [some for some in all_combinations(family.task_modalities) if {*some} & {*family.modalities}]
        names = [combination_name(some) for some in combinations]
        own = [
            Member(family, member.sizes, {name: MemberWeight(1.0, 0.0, 1.0) for name in names}, member.state)
            for member in members
            if member.family == family
        ]
        ensemble = Ensemble(own, {name: RiskScale(0.0, float(len(own))) for name in names})
        torch.manual_seed(0)
        largest = max(_difference(ensemble, *some) for some in combinations for _ in range(CASES // len(combinations)))
        exact = "gradient" if family.multilinear and ("rna" not in family.modalities or family.linear) else "integrated"
        print(f"| `{family.name}` | {len(combinations)} | {exact} | {largest:.1e} |", flush=True)


def _difference(ensemble: Ensemble, *combination: str) -> float:
    """Of one random case, relative to another as the reference patient."""
    sizes = ensemble.members[0].sizes
    lengths = {"rna": sizes.genes, "clinical": sizes.clinical}
    case, other = (
        Tensors(
            torch.randn(TILES, sizes.tile).relu() if "slide" in combination else None,
            *(torch.randn(lengths[name]) if name in combination else None for name in ("rna", "clinical")),
        )
        for _ in range(2)
    )
    slides = [
        pool.result()[0][0] if pool is not None else None for pool in ensemble.pools(torch.randn(TILES, sizes.tile))
    ]
    reference = ReferencePatient(slides, torch.zeros(sizes.genes), other.clinical, "another case")
    pools = ensemble.pools(case.tiles)
    risk = ensemble.fused(case, pools).risk
    found = attribute(ensemble, case, pools, reference, [1] * sizes.clinical)
    return float(np.abs(found.total - risk) / max(1.0, abs(risk)))


if __name__ == "__main__":
    main()
