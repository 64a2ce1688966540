"""A risk's parts: their sum, each against brute force, and the modalities' joint parts against the formulas."""

from itertools import combinations

import numpy as np
import pytest
import torch
from test_fusion import FAMILIES, FROZEN, MODALITIES, case, network, paper, slide_vector

from survfuse.explanation.attribution import Attribution, attribute
from survfuse.explanation.average_gradient import average_gradient
from survfuse.explanation.member_parts import Point, member_parts
from survfuse.explanation.reference_patient import ReferencePatient
from survfuse.networks.ensemble import Ensemble, Member, Tensors
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.tasks.modalities import all_combinations, combination_name

AFFINE_IN_SLIDE = [name for name, family in FAMILIES.items() if "slide" in family.modalities and family.multilinear]
NUMERICAL = ["bilinear-residual", "tensor", "hierarchical"]
COMBINATIONS = [combination_name(each) for each in all_combinations(MODALITIES)]
# Every family with every combination of which it reads something.
READ = [(name, some) for name in FAMILIES for some in COMBINATIONS if {*some.split("+")} & {*FAMILIES[name].modalities}]


def ensemble(names=tuple(FAMILIES), seed: int = 0, combination: str = "slide+rna+clinical") -> Ensemble:
    """Members with random weights, scales and locations; those that do not read anything given are left out."""
    random = np.random.default_rng(seed)
    members = []
    for number, name in enumerate(names):
        if set(FAMILIES[name].modalities) & set(combination.split("+")):
            made = network(name, seed + number, FROZEN)
            weight = MemberWeight(random.uniform(0.2, 1.0), random.normal(), random.uniform(1.0, 3.0))
            members.append(Member(FAMILIES[name], made.sizes, {combination: weight}, made.state_dict()))
    return Ensemble(members, {combination: RiskScale(random.normal(), random.uniform(0.5, 2.0))})


def reference(made: Ensemble, seed: int = 50) -> ReferencePatient:
    """Random averages, with a slide vector of each member's width."""
    random = torch.Generator().manual_seed(seed)
    widths = [member.sizes.clusters if member.family.linear else member.sizes.bag for member in made.members]
    slides = [torch.rand(width, generator=random) for width in widths]
    return ReferencePatient(slides, *(0.3 * part for part in case(seed)[1:]), "random")


def divided(made: Ensemble, has: Tensors, other: ReferencePatient) -> Attribution:
    return attribute(made, has, made.pools(has.tiles), other, [1] * FROZEN.clinical)


def given(combination: str, seed: int = 7, tiles: int = 17) -> Tensors:
    """A random case that has the modalities of ``combination``."""
    parts = dict(zip(MODALITIES, case(seed, tiles), strict=True))
    return Tensors(*(parts[name] if name in combination.split("+") else None for name in MODALITIES))


@pytest.mark.parametrize(("name", "combination"), READ)
def test_the_parts_of_every_family_add_up_to_its_risk(name, combination):
    made = ensemble((name,), combination=combination)
    has = given(combination)
    found = divided(made, has, reference(made))
    read = [part for part in MODALITIES if part in FAMILIES[name].modalities and part in combination.split("+")]
    exact = FAMILIES[name].multilinear and (FAMILIES[name].linear or "rna" not in read)
    risk = made.together([has])[0].risk
    assert found.total == pytest.approx(risk, abs=(1e-5 if exact else 1e-3) * max(1.0, abs(risk)))
    parts = {"slide": found.tiles, "rna": found.genes, "clinical": found.variables}
    assert [part for part, values in parts.items() if values is not None] == read


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_parts_of_an_ensemble_add_up_to_its_risk(combination):
    made = ensemble(combination=combination)
    has = given(combination, tiles=2100)  # more tiles than are processed at once
    risk = made.together([has])[0]
    found = divided(made, has, reference(made))
    assert found.total == pytest.approx(risk.risk, abs=1e-3 * max(1.0, abs(risk.risk)))
    if risk.attention is not None:
        assert found.attention == pytest.approx(risk.attention.numpy(), rel=1e-5)


@pytest.mark.parametrize("name", AFFINE_IN_SLIDE)
def test_a_tiles_part_is_what_the_risk_changes_by_if_it_alone_differs_from_the_reference(name):
    """The slide's vector is the mean of the tiles' by attention: one tile's term is put in place of the reference's."""
    made = ensemble((name,))
    has, other = given("slide+rna+clinical"), reference(made)
    (scored,) = made.scoring(MODALITIES)
    net, weight, scale = scored.network, scored.weight, made.combinations["slide+rna+clinical"]
    state = {key: value.numpy() for key, value in net.state_dict().items()}
    if FAMILIES[name].linear:
        distance = ((has.tiles.numpy()[:, None] - state["centres"]) ** 2).sum(-1)
        z, attention = np.eye(net.sizes.clusters)[distance.argmin(1)], np.full(len(distance), 1 / len(distance))
    else:
        z = np.maximum(has.tiles.numpy() @ state["bag.project.weight"].T + state["bag.project.bias"], 0.0)
        attention = slide_vector(state, has.tiles.numpy())[1]
    start = other.slides[0].numpy()
    changed = np.concatenate([start[None], start + attention[:, None] * (z - start)])
    rest = {"rna": other.rna, "clinical": other.clinical}
    vectors = (
        net.encode(None, *(value[None] for value in rest.values()))[0] if len(FAMILIES[name].modalities) > 1 else {}
    )
    every = {key: value.expand(len(changed), -1) for key, value in vectors.items()}
    risks = net.fuse(every | {"slide": torch.from_numpy(changed).float()}, torch.zeros(len(changed), 0)).risk.numpy()
    expected = (risks[1:] - risks[0]) / (weight.scale * scale.scale) * weight.weight
    found = divided(made, has, other)
    assert found.tiles.values == pytest.approx(expected, abs=1e-5 * max(1.0, float(np.abs(risks).max())))
    assert found.tiles.spread is None


@pytest.mark.parametrize("name", ["cox", "cox-rna", "cox-rna+clinical", "clinical"])
def test_genes_and_columns_of_linear_models_are_coefficients_times_differences(name):
    made = ensemble((name,))
    has, other = given("slide+rna+clinical"), reference(made)
    (scored,) = made.scoring(MODALITIES)
    net, factor = (
        scored.network,
        scored.weight.weight / scored.weight.scale / made.combinations["slide+rna+clinical"].scale,
    )
    state = {key: value.double().numpy() for key, value in net.state_dict().items()}
    widths = {"slide": FROZEN.clusters, "rna": FROZEN.components, "clinical": FROZEN.clinical}
    blocks = np.split(state["risk.weight"][0], np.cumsum([widths[part] for part in net.modalities])[:-1])
    weights = dict(zip(net.modalities, blocks, strict=True))
    found = divided(made, has, other)
    if "rna" in weights:
        slope = weights["rna"] @ state["expression.weight"]
        assert found.genes.values == pytest.approx(factor * slope * (has.rna - other.rna).numpy(), abs=1e-5)
    if "clinical" in weights:
        slope = weights["clinical"] @ state["variables.weight"]
        assert found.variables.values == pytest.approx(
            factor * slope * (has.clinical - other.clinical).numpy(), abs=1e-5
        )


@pytest.mark.parametrize("name", [*NUMERICAL, "bilinear", "rna"])
def test_genes_are_the_mean_gradient_on_the_way_from_the_reference(name):
    """Against gradients in float64 at 200,000 places, averaged."""
    made = network(name, 3, FROZEN).double()
    tiles, rna, clinical = (part.double() for part in case(4))
    start_rna, start_clinical = 0.2 * rna.flip(0), 0.4 * clinical.flip(0)
    slide = made.bag(tiles[None], None, None)[0][0].detach() if "slide" in made.modalities else None
    start_slide = 0.5 * slide if slide is not None else None
    parts = member_parts(made, Point(slide, rna, clinical), Point(start_slide, start_rna, start_clinical), 1e-7)
    places = ((torch.arange(200_000).double() + 0.5) / 200_000)[:, None]
    way = (start_rna + places * (rna - start_rna)).requires_grad_()
    rest = {"slide": start_slide, "clinical": start_clinical}
    vectors = {part: rest[part].expand(200_000, -1) for part in made.modalities if part != "rna"}
    if "clinical" in vectors:
        vectors["clinical"] = made.variables(vectors["clinical"])
    own = made.encode(None, way, None)[0]["rna"]
    made.fuse({**vectors, "rna": own}, torch.zeros(200_000, 0)).risk.sum().backward()
    expected = way.grad.mean(0) * (rna - start_rna)
    assert parts.genes.numpy() == pytest.approx(expected.numpy(), abs=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    "name", ["bilinear", "bilinear-residual", "tensor", "low-rank-tensor", "hierarchical", "concat", "cox"]
)
def test_joint_parts_are_what_modalities_change_beyond_their_own_parts(name):
    """Inclusion and exclusion of the risks by the sources' formulas, each modality the case's or the reference's."""
    made = network(name, 5).double()
    state = {key: tensor.numpy() for key, tensor in made.state_dict().items()}
    ends, starts = ([part.double() for part in case(seed)] for seed in (8, 9))
    slides = [made._encode_slide(tiles[None], None, None)[0][0].detach() for tiles in (ends[0], starts[0])]
    parts = member_parts(made, Point(slides[0], *ends[1:]), Point(slides[1], *starts[1:]), 1e-6)

    def risk(chosen: tuple[int, ...]) -> float:
        return paper(name, state, *((ends if place in chosen else starts)[place].numpy() for place in range(3)))

    assert parts.baseline == pytest.approx(risk(()), rel=1e-9)
    for chosen in (*combinations(range(3), 2), (0, 1, 2)):
        within = [part for size in range(len(chosen) + 1) for part in combinations(chosen, size)]
        expected = sum((-1) ** (len(chosen) - len(part)) * risk(part) for part in within)
        found = parts.joint.get(tuple(MODALITIES[place] for place in chosen), 0.0)
        assert found == pytest.approx(expected, abs=1e-9 * max(1.0, abs(risk(chosen))))


def test_the_spread_is_that_of_a_sum_of_one_member_of_each_family():
    """Members of a family stand for each other, so the variance is that of drawing one of each by its weight."""
    made = ensemble(("clinical", "cox", "bilinear", "cox", "bilinear", "bilinear"))
    has, other = given("slide+rna+clinical"), reference(made)
    found = divided(made, has, other)
    weights = np.array([member.standings["slide+rna+clinical"].weight for member in made.members])
    alone = []
    for place, member in enumerate(made.members):
        # The member by itself, on the ensemble's scale.
        single = Ensemble([member], made.combinations)
        part = ReferencePatient([other.slides[place]], other.rna, other.clinical, "random")
        alone.append(divided(single, has, part).variables.values / member.standings["slide+rna+clinical"].weight)
    families = np.array([member.family.name for member in made.members])
    mean, variance = 0.0, 0.0
    for family in set(families):
        of, own = families == family, np.array(alone)[families == family]
        centre = np.average(own, axis=0, weights=weights[of])
        mean = mean + weights[of].sum() * centre
        variance = variance + weights[of].sum() ** 2 * np.average((own - centre) ** 2, axis=0, weights=weights[of])
    assert found.variables.values == pytest.approx(mean, abs=1e-6)
    assert found.variables.spread == pytest.approx(np.sqrt(variance), abs=1e-6)
    assert divided(ensemble(("clinical", "cox", "bilinear")), has, other).variables.spread is None


def test_an_average_gradient_is_refined_until_it_explains_the_difference():
    """A kink in the middle of the way, which few steps miss: the exact average is the difference's share."""
    line = torch.linspace(-1.0, 1.9, 50)
    average = average_gradient(lambda points: torch.relu(points.sum(-1)), line - 1.0, line + 3.0, False, 1e-3)
    low, high = (max(0.0, float((line + shift).sum())) for shift in (-1.0, 3.0))
    assert float(average.sum()) * 4.0 == pytest.approx(high - low, abs=1e-3 * 50)
