"""Every network against its source's formulas written out in numpy, and the ensemble against its members one by one."""

import numpy as np
import pytest
import torch
from torch import nn

from survfuse.networks.build import build
from survfuse.networks.ensemble import Ensemble, Member
from survfuse.networks.families import families_of
from survfuse.networks.network import Network
from survfuse.networks.sizes import Sizes
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.runtime.errors import InputError
from survfuse.tasks.modalities import all_combinations, combination_name

MODALITIES = ("slide", "rna", "clinical")
FAMILIES = families_of(MODALITIES)

SMALL = Sizes(
    tile=20, bag=12, attention=7, genes=30, rna=(16, 10, 8), clinical=9, rank=5, pairs=(6, 4, 3),
    hidden=6, embedding=4, factors=3, fused=5, clusters=4,
)  # fmt: skip
FROZEN = Sizes(**{**vars(SMALL), "components": 11, "standardised": True, "stand_ins": True})
State = dict[str, np.ndarray]


def linear(state: State, name: str, u: np.ndarray) -> np.ndarray:
    return u @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def bilinear(state: State, name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return linear(state, f"{name}.out", linear(state, f"{name}.first", u) * linear(state, f"{name}.second", v))


def slide_vector(state: State, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    z = np.maximum(linear(state, "bag.project", h), 0.0)
    gate = np.tanh(linear(state, "bag.tanh_branch", z)) / (1.0 + np.exp(-linear(state, "bag.sigmoid_branch", z)))
    scores = linear(state, "bag.score", gate)[:, 0]
    attention = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    return (attention[:, None] * z).sum(axis=0), attention


def rna_vector(state: State, x: np.ndarray) -> np.ndarray:
    for layer in range(3):
        x = np.maximum(linear(state, f"rna.layers.{layer}", x), 0.0)
    return x


def shares(state: State, h: np.ndarray) -> np.ndarray:
    nearest = [int(np.argmin(((tile - state["centres"]) ** 2).sum(axis=1))) for tile in h]
    return np.bincount(nearest, minlength=len(state["centres"])) / len(h)


def paper(family: str, state: State, h: np.ndarray, x: np.ndarray, c: np.ndarray) -> float:
    """The risk of one case: h [N, tile], x [genes], c [clinical], by method.md and the sources of each family."""
    modalities = FAMILIES[family].modalities
    w, b = state["risk.weight"][0], state["risk.bias"][0]
    if FAMILIES[family].linear:
        raw = {"slide": lambda: shares(state, h), "rna": lambda: x, "clinical": lambda: c}
        return w @ np.concatenate([raw[name]() for name in modalities]) + b
    m = slide_vector(state, h)[0] if "slide" in modalities else None
    r = rna_vector(state, x) if "rna" in modalities else None
    if family in ("concat", "slide", "rna"):
        return w @ np.concatenate([v for v in (m, r, c if family == "concat" else None) if v is not None]) + b
    if family == "tensor":
        first = np.append(np.maximum(linear(state, "slide_embedding", m), 0.0), 1.0)
        second = np.append(np.maximum(linear(state, "rna_embedding", r), 0.0), 1.0)
        product = np.multiply.outer(np.multiply.outer(first, second), np.append(c, 1.0)).ravel()
        for layer in range(2):
            product = np.maximum(linear(state, f"hidden.{layer}", product), 0.0)
        return w @ product + b
    if family == "low-rank-tensor":
        # The weight that the factors stand for, formed in full and applied to the full product.
        product = np.multiply.outer(np.multiply.outer(np.append(m, 1.0), np.append(r, 1.0)), np.append(c, 1.0))
        parts = []
        for name in MODALITIES:
            weight, bias = state[f"factors.{name}.weight"], state[f"factors.{name}.bias"]
            parts.append(np.concatenate([weight, bias[:, None]], axis=1).reshape(SMALL.factors, SMALL.fused, -1))
        full = np.einsum("ifa,ifb,ifc->fabc", *parts)
        return w @ (np.tensordot(full, product, axes=3) + state["offset"]) + b
    vectors = {"slide": m, "rna": r, "clinical": c}
    pairs = [
        (a, z) for a, z in (("slide", "rna"), ("slide", "clinical"), ("rna", "clinical")) if {a, z} <= set(modalities)
    ]
    fused = [bilinear(state, f"{a}_{z}", vectors[a], vectors[z]) for a, z in pairs]
    if family == "bilinear-residual":
        fused.append(np.maximum(linear(state, "residual", np.concatenate([m, r, c])), 0.0))
    if family == "hierarchical":
        upper = [(0, 1), (0, 2), (1, 2)]
        fused = [bilinear(state, f"upper.{number}", fused[a], fused[z]) for number, (a, z) in enumerate(upper)]
    return w @ np.concatenate(fused) + b


def network(family: str, seed: int, sizes: Sizes = SMALL) -> Network:
    """A network with every tensor drawn at random: biases start at zero, where a forgotten one would not show."""
    random = torch.Generator().manual_seed(seed)
    made = build(FAMILIES[family], sizes)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=random))
    return made.eval()


def case(seed: int, tiles: int = 17, sizes: Sizes = SMALL) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shapes = ((tiles, sizes.tile), (sizes.genes,), (sizes.clinical,))
    return tuple(torch.randn(shape, generator=random) for shape in shapes)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_networks_follow_their_sources_formulas(family, seed):
    made = network(family, seed).double()
    inputs = [part.double() for part in case(seed)]
    with torch.no_grad():
        found = made(*(part[None] for part in inputs))
    state = {name: tensor.numpy() for name, tensor in made.state_dict().items()}
    expected = paper(family, state, *(part.numpy() for part in inputs))
    assert found.risk.item() == pytest.approx(expected, rel=1e-9)
    assert found.terms.shape == (1, len(made.terms))
    assert float((found.terms.sum() + found.bias).detach()) == pytest.approx(expected, rel=1e-9)
    if "slide" in made.modalities and not made.family.linear:
        assert found.attention[0].tolist() == pytest.approx(
            slide_vector(state, inputs[0].numpy())[1].tolist(), rel=1e-9
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_depend_on_their_modalities_and_no_other(family):
    made = network(family, 5)
    inputs = [part[None].clone() for part in case(6)]
    noise = torch.Generator().manual_seed(0)  # another could leave every cluster its share of a few tiles
    with torch.no_grad():
        before = made(*inputs).risk.item()
        for place, name in enumerate(MODALITIES):
            changed = list(inputs)
            changed[place] = inputs[place] + 3.0 * torch.randn(inputs[place].shape, generator=noise)
            assert (made(*changed).risk.item() != before) == (name in made.modalities)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_modality_is_stood_in_for(family):
    """Absent, hidden and replaced by the stand-in itself are one and the same, whatever the hidden input holds."""
    made = network(family, 7, FROZEN)
    tiles, rna, clinical = (part[None] for part in case(8))
    for combination in all_combinations(made.modalities):
        given = [
            part if name in combination else None for name, part in zip(MODALITIES, (tiles, rna, clinical), strict=True)
        ]
        hidden = torch.tensor([[name in combination for name in MODALITIES]])
        with torch.no_grad():
            absent = made(*given).risk
            masked = made(100.0 * tiles if "slide" not in combination else tiles, rna, clinical, None, hidden).risk
            vectors, attention = made.encode(tiles, rna, clinical)
            stand_ins = made.means if made.family.linear else made.stand_ins
            replaced = {n: v if n in combination else stand_ins[n][None] for n, v in vectors.items()}
            assert torch.allclose(absent, made.fuse(replaced, attention).risk, rtol=1e-5)
        assert torch.allclose(absent, masked, rtol=1e-5)


def test_fixed_maps_stand_before_the_network():
    """A frozen network on raw inputs is the inner one on inputs mapped by hand."""
    frozen = network("bilinear", 3, FROZEN)
    inner = build(FAMILIES["bilinear"], Sizes(**{**vars(SMALL), "genes": 11, "stand_ins": True})).eval()
    own = {
        name: tensor
        for name, tensor in frozen.state_dict().items()
        if name.split(".")[0] not in ("expression", "variables")
    }
    inner.load_state_dict(own)
    tiles, rna, clinical = (part[None] for part in case(4))
    state = frozen.state_dict()
    mapped = rna @ state["expression.weight"].T + state["expression.bias"]
    standard = clinical @ state["variables.weight"].T + state["variables.bias"]
    with torch.no_grad():
        assert torch.allclose(frozen(tiles, rna, clinical).risk, inner(tiles, mapped, standard).risk, rtol=1e-5)


def test_full_sizes_have_the_sources_parameters():
    """Counted layer by layer; about 42 million for the paper's, most of them in the first RNA layer."""
    bag = 1024 * 512 + 512 + 2 * (512 * 256 + 256) + 256 + 1
    rna = (19359 + 1) * 2048 + (2048 + 1) * 512 + (512 + 1) * 128
    pairs = sum(
        (first + 1) * 64 + (second + 1) * 64 + 65 * out
        for first, second, out in ((512, 128, 64), (512, 27, 32), (128, 27, 32))
    )
    upper = sum((a + 1) * 64 + (z + 1) * 64 + 65 * 32 for a, z in ((64, 32), (64, 32), (32, 32)))
    perceptron = (33 * 33 * 28 + 1) * 128 + 129 * 128 + 129
    expected = {
        "bilinear": bag + rna + pairs + 129,
        "bilinear-residual": bag + rna + pairs + (667 + 1) * 128 + 257,
        "concat": bag + rna + 668,
        "hierarchical": bag + rna + pairs + upper + 97,
        "tensor": bag + rna + 513 * 32 + 129 * 32 + perceptron,
        "low-rank-tensor": bag + rna + (513 + 129 + 28) * 4 * 64 + 64 + 65,
        "slide": bag + 513,
        "rna": rna + 129,
    }
    for family, number in expected.items():
        with torch.device("meta"):
            made = build(FAMILIES[family], Sizes())
        assert sum(parameter.numel() for parameter in made.parameters()) == number, family


def test_weights_start_xavier_normal_and_biases_at_zero():
    torch.manual_seed(0)
    made = build(FAMILIES["bilinear"], Sizes(genes=500, rna=(400, 64)))
    first = made.rna.layers[0]
    assert first.weight.std().item() == pytest.approx((2 / (500 + 400)) ** 0.5, rel=0.02)
    assert all((module.bias == 0).all() for module in made.modules() if isinstance(module, nn.Linear))


@pytest.mark.parametrize("family", ["bilinear", "cox"])
def test_padding_and_the_order_of_tiles_change_nothing(family):
    made = network(family, 0)
    tiles, rna, clinical = case(1)
    padded = torch.cat([tiles, 100.0 * torch.ones(5, SMALL.tile)])[None]
    present = (torch.arange(22) < 17)[None]
    with torch.no_grad():
        alone = made(tiles[None], rna[None], clinical[None])
        turned = made(tiles.flip(0)[None], rna[None], clinical[None])
        within = made(padded, rna[None], clinical[None], present)
    assert within.risk.item() == pytest.approx(alone.risk.item(), rel=1e-5)
    assert turned.risk.item() == pytest.approx(alone.risk.item(), rel=1e-5)
    assert (within.attention[0, 17:] == 0.0).all()


def test_dropout_of_both_branches_is_dropout_of_their_product():
    """Both of a tile's gates survive with (1 − p)², and what is left is scaled by its inverse, as torch's own does."""
    made = build(FAMILIES["bilinear"], SMALL)
    masks = made.dropout(tiles=17)
    assert masks["bag"] == ((17, 12), 0.25) and masks["rna.1"] == ((10,), 0.25)
    assert masks["gate"] == ((17, 7), pytest.approx(1.0 - 0.75**2))
    state = {name: tensor.detach().numpy() for name, tensor in made.state_dict().items()}
    tiles = case(2)[0]
    random = np.random.default_rng(0)
    z_kept, tanh_kept, sigmoid_kept = (random.random((17, width)) < 0.75 for width in (12, 7, 7))
    z = np.maximum(linear(state, "bag.project", tiles.numpy()), 0.0) * z_kept / 0.75
    tanh = np.tanh(linear(state, "bag.tanh_branch", z)) * tanh_kept / 0.75
    sigmoid = 1.0 / (1.0 + np.exp(-linear(state, "bag.sigmoid_branch", z))) * sigmoid_kept / 0.75
    scores = linear(state, "bag.score", tanh * sigmoid)[:, 0]
    expected = np.exp(scores) / np.exp(scores).sum()
    keep = {"bag": torch.from_numpy(z_kept)[None], "gate": torch.from_numpy(tanh_kept & sigmoid_kept)[None]}
    with torch.no_grad():
        vector, attention = made.bag(tiles[None], None, keep)
    assert attention[0].numpy() == pytest.approx(expected, rel=1e-4)
    assert vector[0].numpy() == pytest.approx(expected @ z, rel=1e-4, abs=1e-5)


def members() -> list[Member]:
    """Six members of three families, one of another size, with standings of their own for every combination."""
    other = Sizes(**{**vars(FROZEN), "bag": 6, "rank": 3})
    kinds = [("bilinear", FROZEN), ("bilinear", FROZEN), ("bilinear", other), ("concat", FROZEN), ("cox", FROZEN)]
    kinds.append(("clinical", FROZEN))
    made = []
    for seed, (family, sizes) in enumerate(kinds):
        own = set(FAMILIES[family].modalities)
        standings = {
            combination_name(combination): MemberWeight(
                0.1 + 0.1 * seed + 0.05 * len(combination), 0.3 * seed - 0.5, 0.5 + 0.2 * seed
            )
            for combination in all_combinations(MODALITIES)
            if own & set(combination)
        }
        made.append(Member(FAMILIES[family], sizes, standings, network(family, seed, sizes).state_dict()))
    return made


SCALES = {
    combination_name(part): RiskScale(0.1 * len(part), 0.5 + 0.1 * len(part)) for part in all_combinations(MODALITIES)
}


@pytest.mark.parametrize("combination", all_combinations(MODALITIES), ids=combination_name)
def test_ensemble_equals_its_members_one_by_one(combination):
    for seed in range(4):
        given = {name: part if name in combination else None for name, part in zip(MODALITIES, case(seed), strict=True)}
        found = Ensemble(members(), SCALES)(*given.values())
        total, attention, looking, single = 0.0, 0.0, 0.0, []
        for member in members():
            standing = member.standings.get(combination_name(combination))
            if standing is None:
                continue
            alone = build(member.family, member.sizes).eval()
            alone.load_state_dict(member.state)
            with torch.no_grad():
                fused = alone(*(part[None] if part is not None else None for part in given.values()))
            single.append(fused.risk.item())
            total += standing.weight * (single[-1] - standing.location) / standing.scale
            if fused.attention.shape[-1]:
                attention = attention + standing.weight * fused.attention[0].double()
                looking += standing.weight
        scale = SCALES[combination_name(combination)]
        assert found.risk == pytest.approx((total - scale.location) / scale.scale, rel=1e-4, abs=1e-4)
        assert sorted(found.member_risks.tolist()) == pytest.approx(sorted(single), rel=1e-4, abs=1e-4)
        assert found.baseline + sum(found.terms.values()) == pytest.approx(found.risk, abs=1e-9)
        if "slide" in combination:
            assert torch.allclose(found.attention, attention / looking, atol=1e-6)
            assert float(found.attention.sum()) == pytest.approx(1.0, abs=1e-6)
        else:
            assert found.attention is None


@pytest.mark.parametrize("at_a_time", [1, 2, 5])
def test_a_bag_in_parts_is_the_bag_as_a_whole(monkeypatch, at_a_time):
    """To float64's rounding, also where one tile's score lies far above or below all others."""
    for seed in range(4):
        tiles, rna, clinical = (part.double() for part in case(seed))
        tiles = torch.cat([tiles, 1e3 * tiles[:2], -1e3 * tiles[-2:], tiles])
        exact = [
            Member(m.family, m.sizes, m.standings, {name: tensor.double() for name, tensor in m.state.items()})
            for m in members()
        ]
        monkeypatch.setattr("survfuse.networks.ensemble.TILES_AT_A_TIME", 10_000)
        whole = Ensemble(exact, SCALES)(tiles, rna, clinical)
        monkeypatch.setattr("survfuse.networks.ensemble.TILES_AT_A_TIME", at_a_time)
        parts = Ensemble(exact, SCALES)(tiles, rna, clinical)
        assert parts.risk == pytest.approx(whole.risk, rel=1e-12)
        assert torch.allclose(parts.attention, whole.attention, rtol=1e-12, atol=1e-300)
        for member, risk in zip(exact, parts.member_risks.tolist(), strict=True):
            alone = build(member.family, member.sizes).double().eval()
            alone.load_state_dict(member.state)
            with torch.no_grad():
                assert risk == pytest.approx(alone(tiles[None], rna[None], clinical[None]).risk.item(), rel=1e-9)


def test_a_bag_in_half_precision_is_near_the_bag_in_float32():
    """What a GPU runs for tiles of half precision, computed on the CPU: scores and sums stay in float32."""
    sizes = Sizes(genes=9, clinical=4)
    gated = network("bilinear", 3, sizes)
    tiles = torch.randn(300, sizes.tile, generator=torch.Generator().manual_seed(0))
    found = []
    for half in (False, True):
        pool = gated.pool(len(tiles), torch.device("cpu"), half)
        with torch.no_grad():
            for part in tiles.split(64):
                pool.add(part)
            vector, attention = pool.result()
        assert vector.dtype == attention.dtype == torch.float32
        found.append((vector, attention))
    assert gated.bag.project.weight.dtype == torch.float32  # the network's own weights stay as they are
    (exact, weights), (vector, attention) = found
    assert (vector - exact).norm() / exact.norm() < 2e-3
    assert (attention - weights).abs().sum() < 5e-3 and attention.sum() == pytest.approx(1.0, abs=1e-5)


def test_half_precision_that_overflows_gives_way_to_float32():
    tiles, rna, clinical = case(0)
    ensemble = Ensemble(members(), SCALES)
    near, exact = (ensemble(tiles, rna, clinical, half=half).risk for half in (True, False))
    assert near == pytest.approx(exact, rel=0.05, abs=0.05) and near != exact
    far, exact = (ensemble(1e6 * tiles, rna, clinical, half=half).risk for half in (True, False))
    assert np.isfinite(far) and far == exact


def test_a_combination_that_was_not_trained_for_is_refused():
    tiles, rna, _ = case(0)
    scales = {name: scale for name, scale in SCALES.items() if "clinical" in name}
    with pytest.raises(
        InputError, match=r"the case has slide\+rna; this bundle was trained to score slide\+rna\+clinical"
    ):
        Ensemble(members(), scales)(tiles, rna, None)


@pytest.mark.parametrize(
    "change",
    [{"bag": 0}, {"rank": 2.5}, {"pairs": [1, 2]}, {"dropout": 1.0}, {"rna": []}, {"components": -1}, {"stand_ins": 1}],
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(ValueError, match="expected"):
        Sizes.from_json(SMALL.to_json() | change).check_pairs(MODALITIES)


@pytest.mark.parametrize(
    ("modalities", "names"),
    [
        (("slide",), {"slide", "cox-slide"}),
        (
            ("slide", "clinical"),
            {
                "bilinear",
                "bilinear-residual",
                "concat",
                "tensor",
                "low-rank-tensor",
                "slide",
                "clinical",
                "cox-slide",
                "cox",
            },
        ),
        (MODALITIES, set(FAMILIES)),
    ],
)
def test_a_task_of_other_modalities_has_families_that_fuse_them(modalities, names):
    families = families_of(modalities)
    assert set(families) == names
    pairs = len(modalities) * (len(modalities) - 1) // 2
    sizes = Sizes(**{**vars(SMALL), "pairs": (6, 4, 3)[:pairs], "stand_ins": True})
    tiles, rna, clinical = (part[None] for part in case(0))
    given = {"slide": tiles, "rna": rna, "clinical": clinical}
    inputs = [given[name] if name in modalities else None for name in MODALITIES]
    for family in families.values():
        made = build(family, sizes).eval()
        with torch.no_grad():
            fused = made(*inputs)
        assert set(family.modalities) <= set(modalities)
        assert float((fused.terms.sum() + fused.bias).detach()) == pytest.approx(float(fused.risk), rel=1e-5, abs=1e-6)


def test_terms_are_called_after_what_a_case_has_and_stand_ins_belong_to_the_baseline():
    """A term of absent modalities alone is the same for every case: it is part of the baseline, and shown nowhere."""
    baselines = set()
    for seed in range(3):
        tiles, rna, _ = case(seed)
        scored = Ensemble(members(), SCALES)(tiles, rna, None)
        assert list(scored.terms) == ["slide", "rna", "slide × rna"]
        assert scored.baseline + sum(scored.terms.values()) == pytest.approx(scored.risk, abs=1e-9)
        baselines.add(round(scored.baseline, 9))
    assert len(baselines) == 1
    alone = Ensemble(members(), SCALES)(None, None, case(0)[2])
    assert list(alone.terms) == ["clinical"]


def test_a_hidden_modality_s_stand_in_is_what_the_baseline_holds():
    """One concatenation member, by hand: the baseline is (w_c · stand-in + b − location) / scale, on the ensemble's."""
    made = network("concat", 5, FROZEN)
    tiles, rna, _ = case(1)
    weight, scale = MemberWeight(1.0, 0.3, 0.7), RiskScale(0.2, 0.9)
    member = Member(FAMILIES["concat"], FROZEN, {"slide+rna": weight}, made.state_dict())
    scored = Ensemble([member], {"slide+rna": scale})(tiles, rna, None)
    constant = made.risk.weight[0, -FROZEN.clinical :] @ made.stand_ins["clinical"] + made.risk.bias[0]
    expected = ((float(constant.detach()) - weight.location) / weight.scale - scale.location) / scale.scale
    assert scored.baseline == pytest.approx(expected, rel=1e-5)
    assert list(scored.terms) == ["slide", "rna"]
