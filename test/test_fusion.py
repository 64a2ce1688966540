"""The network against its formulas written out in numpy, and the ensemble against its members one by one."""

import numpy as np
import pytest
import torch
from torch import nn

from survfuse.ensemble import Ensemble, Member
from survfuse.fusion import BilinearFusion, Sizes, build

SMALL = Sizes(tile=20, bag=12, attention=7, genes=30, rna=(16, 10, 8), clinical=9, rank=5, pairs=(6, 4, 3))


def paper(state: dict[str, np.ndarray], h: np.ndarray, x: np.ndarray, c: np.ndarray):
    """method.md's formulas for one case: h [N, tile], x [genes], c [clinical] → risk, terms, attention."""

    def linear(name: str, u: np.ndarray) -> np.ndarray:
        return u @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def bilinear(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        return linear(f"{name}.out", linear(f"{name}.first", u) * linear(f"{name}.second", v))

    z = np.maximum(linear("bag.project", h), 0.0)
    gate = np.tanh(linear("bag.tanh_branch", z)) / (1.0 + np.exp(-linear("bag.sigmoid_branch", z)))
    scores = linear("bag.score", gate)[:, 0]
    attention = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    m = (attention[:, None] * z).sum(axis=0)
    r = x
    for layer in range(3):
        r = np.maximum(linear(f"rna.layers.{layer}", r), 0.0)
    fused = [bilinear("slide_rna", m, r), bilinear("slide_clinical", m, c), bilinear("rna_clinical", r, c)]
    weight, terms, at = state["risk.weight"][0], [], 0
    for pair in fused:
        terms.append(weight[at : at + len(pair)] @ pair)
        at += len(pair)
    return sum(terms) + state["risk.bias"][0], terms, attention


def network(seed: int, sizes: Sizes = SMALL) -> BilinearFusion:
    torch.manual_seed(seed)
    made = build("bilinear", sizes)
    for parameter in made.parameters():
        if parameter.ndim == 1:  # biases start at zero, where a forgotten one would not show
            nn.init.normal_(parameter)
    return made.eval()


def case(seed: int, tiles: int = 17, sizes: Sizes = SMALL) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = ((tiles, sizes.tile), (sizes.genes,), (sizes.clinical,))
    return tuple(torch.randn(shape, generator=random) for shape in shapes)


@pytest.mark.parametrize("seed", range(4))
def test_network_follows_the_papers_formulas(seed):
    made = network(seed).double()
    inputs = [part.double() for part in case(seed)]
    with torch.no_grad():
        found = made(*(part[None] for part in inputs))
    state = {name: tensor.numpy() for name, tensor in made.state_dict().items()}
    risk, terms, attention = paper(state, *(part.numpy() for part in inputs))
    assert found.risk.item() == pytest.approx(risk, rel=1e-10)
    assert found.terms[0].tolist() == pytest.approx(terms, rel=1e-10)
    assert found.attention[0].tolist() == pytest.approx(attention.tolist(), rel=1e-10)
    assert float((found.terms.sum() + found.bias).detach()) == pytest.approx(found.risk.item(), rel=1e-12)


def test_full_size_has_the_papers_parameters():
    """Counted layer by layer from method.md; about 42 million, most of them in the first RNA layer."""
    with torch.device("meta"):
        made = build("bilinear", Sizes())
    bag = 1024 * 512 + 512 + 2 * (512 * 256 + 256) + 256 + 1
    rna = (19359 + 1) * 2048 + (2048 + 1) * 512 + (512 + 1) * 128
    pairs = sum(
        (first + 1) * 64 + (second + 1) * 64 + 65 * out
        for first, second, out in ((512, 128, 64), (512, 27, 32), (128, 27, 32))
    )
    assert sum(parameter.numel() for parameter in made.parameters()) == bag + rna + pairs + 129
    shapes = {tuple(parameter.shape) for parameter in made.parameters()}
    assert {(512, 1024), (256, 512), (1, 256), (2048, 19359), (512, 2048), (128, 512), (1, 128)} <= shapes


def test_weights_start_xavier_normal_and_biases_at_zero():
    torch.manual_seed(0)
    made = build("bilinear", Sizes(genes=500, rna=(400, 64)))
    first = made.rna.layers[0]
    assert first.weight.std().item() == pytest.approx((2 / (500 + 400)) ** 0.5, rel=0.02)
    assert all((module.bias == 0).all() for module in made.modules() if isinstance(module, nn.Linear))


def test_padding_changes_nothing():
    made = network(0)
    tiles, rna, clinical = case(1)
    padded = torch.cat([tiles, 100.0 * torch.ones(5, SMALL.tile)])[None]
    present = (torch.arange(22) < 17)[None]
    with torch.no_grad():
        alone = made(tiles[None], rna[None], clinical[None])
        within = made(padded, rna[None], clinical[None], present)
    assert within.risk.item() == pytest.approx(alone.risk.item(), rel=1e-5)
    assert (within.attention[0, 17:] == 0.0).all()


def test_order_of_tiles_does_not_change_the_risk():
    made = network(2)
    tiles, rna, clinical = case(3)
    with torch.no_grad():
        risks = [made(bag[None], rna[None], clinical[None]).risk.item() for bag in (tiles, tiles.flip(0))]
    assert risks[0] == pytest.approx(risks[1], rel=1e-5)


def members() -> list[Member]:
    """Five members, one of another size, with different weights, locations and scales."""
    other = Sizes(**{**vars(SMALL), "bag": 6, "rank": 3})
    sizes = [SMALL, SMALL, other, SMALL, SMALL]
    return [
        Member("bilinear", size, 1.0 + seed, 0.3 * seed - 0.5, 0.5 + 0.2 * seed, network(seed, size).state_dict())
        for seed, size in enumerate(sizes)
    ]


def test_ensemble_equals_its_members_one_by_one():
    for seed in range(10):
        inputs = case(seed)
        found = Ensemble(members())(*inputs)
        expected, weights, attention, single = 0.0, 0.0, 0.0, []
        for member in members():
            alone = build(member.family, member.sizes).eval()
            alone.load_state_dict(member.state)
            with torch.no_grad():
                fused = alone(*(part[None] for part in inputs))
            single.append(fused.risk.item())
            expected += member.weight * (single[-1] - member.location) / member.scale
            attention = attention + member.weight * fused.attention[0].double()
            weights += member.weight
        assert found.member_risks.tolist() == pytest.approx(single, rel=1e-5, abs=1e-5)
        assert found.risk == pytest.approx(expected / weights, rel=1e-5, abs=1e-5)
        assert torch.allclose(found.attention, attention / weights, atol=1e-6)


def test_terms_and_baseline_sum_to_the_ensembles_risk():
    found = Ensemble(members())(*case(4))
    assert list(found.terms) == ["slide × rna", "slide × clinical", "rna × clinical"]
    assert sum(found.terms.values()) + found.baseline == pytest.approx(found.risk, abs=1e-6)


@pytest.mark.parametrize("change", [{"bag": 0}, {"rank": 2.5}, {"pairs": [1, 2]}, {"dropout": 1.0}, {"rna": []}])
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        Sizes.from_json(SMALL.to_json() | change)
