"""What runs on a GPU, with a pretended one: every tensor is where its operation needs it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import DEMONSTRATION, MASK, SLIDE
from pretended_gpu import GPU, H100, SECOND, T4, pretended_gpu

from survfuse.bundle.load import load
from survfuse.cohort.bags import Bag
from survfuse.explanation.attribution import attribute
from survfuse.explanation.reference_patient import ReferencePatient
from survfuse.inputs.case import Case
from survfuse.networks.build import build
from survfuse.networks.ensemble import Ensemble, Member, Tensors
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.prediction.predictor import Predictor
from survfuse.slide.encoders import Encoder
from survfuse.slide.registry import ENCODERS
from survfuse.slide.weights import build_network
from survfuse.tasks.modalities import all_combinations, combination_name
from survfuse.training.fit_networks import FittedTogether, _FullRisk, fit_networks
from survfuse.training.folds import nested_splits
from survfuse.training.member import Prepared
from survfuse.training.member_risks import network_risks
from survfuse.training.protocol import Optimisation
from survfuse.training.tile_sampler import TileSampler

SIZES = Sizes(
    tile=6, bag=8, attention=4, genes=7, rna=(8, 6), clinical=5, rank=4, pairs=(4, 3, 2), hidden=5, embedding=3,
    factors=2, fused=4, stand_ins=True,
)  # fmt: skip
MODALITIES = ("slide", "rna", "clinical")
FAMILIES = families_of(MODALITIES)
NEURAL = [name for name, family in FAMILIES.items() if not family.linear]
PATIENTS = 40


@pytest.fixture(scope="module")
def cohort():
    """40 patients' tiles, vectors and outcomes, and splits for four members."""
    random = np.random.default_rng(0)
    clinical, rna = (torch.from_numpy(random.standard_normal((PATIENTS, n))).float() for n in (5, 7))
    bags = [Bag.of(torch.from_numpy(random.standard_normal((3 + n % 6, 6))).float()) for n in range(PATIENTS)]
    times, events = random.exponential(50.0, PATIENTS), np.arange(PATIENTS) % 3 > 0
    splits = nested_splits(times, events, 2, 2, 1, seed=0)
    members = [Prepared(split, 10 + n, {"rna": rna, "clinical": clinical}) for n, split in enumerate(splits)]
    return members, bags, times, events


@pytest.mark.parametrize(("family", "number"), [*((name, GPU) for name in NEURAL), ("bilinear", SECOND)])
def test_networks_of_every_family_are_fitted_on_a_gpu(cohort, family, number):
    members, bags, times, events = cohort
    optimisation = replace(Optimisation(epochs=2, patience=2, tiles=4), modality_dropout=0.2)
    with pretended_gpu(gpu=number) as gpu:
        fitted = fit_networks(FAMILIES[family], SIZES, members, bags, times, events, optimisation, 3, gpu)
        assert len(fitted) == len(members)
        assert {value.device.type for member in fitted for value in member.state.values()} == {"cpu"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cohort_is_scored_on_a_gpu(cohort, family):
    members, bags, *_ = cohort
    with pretended_gpu() as gpu:
        network = build(FAMILIES[family], SIZES)
        risks = network_risks(network, bags, members[0].inputs, all_combinations(MODALITIES)[:1], [0, 3, 5], gpu)
        assert [(value.shape, value.device.type) for value in risks.values()] == [((3,), "cpu")]


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_case_is_scored_on_a_gpu_by_members_of_every_family(family, half):
    with pretended_gpu() as gpu:
        name = combination_name(FAMILIES[family].modalities)
        state = dict(build(FAMILIES[family], SIZES).state_dict())
        member = Member(FAMILIES[family], SIZES, {name: MemberWeight(1.0, 0.0, 1.0)}, state)
        ensemble = Ensemble([member, member], {name: RiskScale(0.0, 1.0)}, gpu)
        case = {"slide": torch.zeros(1500, 6), "rna": torch.zeros(7), "clinical": torch.zeros(5)}
        given = [case[modality] if modality in FAMILIES[family].modalities else None for modality in MODALITIES]
        assert ensemble(*given, half=half).member_risks.device.type == "cpu"


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if "slide" in family.modalities])
def test_tiles_are_explained_on_a_gpu_by_members_of_every_family(family, half, monkeypatch):
    """Gradients, which the pretended GPU has none of, are always of what lies on the CPU."""

    def gradient(function, start, *_):
        assert function(start.unsqueeze(0)).device.type == "cpu"
        return torch.ones_like(start).double()

    monkeypatch.setattr("survfuse.explanation.member_parts.average_gradient", gradient)
    with pretended_gpu() as gpu:
        name = combination_name(FAMILIES[family].modalities)
        state = dict(build(FAMILIES[family], SIZES).state_dict())
        member = Member(FAMILIES[family], SIZES, {name: MemberWeight(1.0, 0.0, 1.0)}, state)
        ensemble = Ensemble([member, member], {name: RiskScale(0.0, 1.0)}, gpu)
        values = {"slide": torch.ones(1500, 6), "rna": torch.ones(7), "clinical": torch.ones(5)}
        case = Tensors(*(values[one] if one in FAMILIES[family].modalities else None for one in MODALITIES))
        other = ReferencePatient(ensemble.absent_slides(), torch.zeros(7), torch.zeros(5), "zeros")
        found = attribute(ensemble, case, ensemble.pools(case.tiles, half), other, [2, 3])
        assert found.tiles.values.shape == found.tiles.spread.shape == found.attention.shape == (1500,)


@pytest.mark.parametrize(
    ("name", "capability", "number"),
    [("efficientnet-lite0", T4, GPU), ("efficientnet-lite0", H100, SECOND), ("uni", T4, GPU), ("uni", H100, SECOND)],
)
def test_tiles_are_encoded_on_a_gpu(name, capability, number):
    with pretended_gpu(capability, number) as gpu:
        spec = ENCODERS[name]
        encoder = Encoder(spec, build_network(spec), gpu)
        half = torch.bfloat16 if capability == H100 else torch.float16
        assert encoder.precision == (half if spec.half_cuda else torch.float32)
        for each in (encoder, encoder.in_float32()):
            features = each(torch.zeros(5, spec.input_px, spec.input_px, 3, dtype=torch.uint8))
            assert (features.shape, features.device, features.dtype) == ((5, spec.dimension), gpu, torch.float32)
        with encoder.autocast():  # half precision is really used
            weights = torch.zeros(2, 2, device=gpu)
            assert (weights @ weights).dtype == encoder.precision


@pytest.mark.parametrize("gpu", [GPU, SECOND])
def test_a_slide_is_predicted_on_a_gpu_from_its_pixels_to_its_months(capsys, gpu):
    """The demonstration bundle has members of most families; what the GPU computes is pretended, months are not."""
    with pretended_gpu(T4, gpu):
        predictor = Predictor(load(DEMONSTRATION))
        case = Case(slide=SLIDE, mask=MASK)
        prediction = predictor.predict(case, modalities=["slide"], seconds=1e6, show=True)
    assert len(prediction.attention) == len(prediction.coordinates) == 11
    assert prediction.months > 0.0 and not prediction.warnings
    said = capsys.readouterr().out
    assert f"by efficientnet-lite0 in float32 on {gpu}" in said and "on a pretended GPU" in said


@pytest.mark.parametrize("family", NEURAL)
def test_networks_of_every_family_are_built_and_differentiated_on_the_meta_device(cohort, family):
    """Its tensors have no values either, but gradients, and an operation that mixes devices raises."""
    members, bags, times, events = cohort
    meta = torch.device("meta")
    optimisation = replace(Optimisation(), modality_dropout=0.2)
    fitting = FittedTogether(FAMILIES[family], SIZES, members, times, events, optimisation, meta)
    sampled = TileSampler(bags, 4, 0, meta)(1) if "slide" in FAMILIES[family].modalities else None
    keep, available = fitting.masks(sampled[0].shape[1] if sampled else 0)
    risks = fitting._risks(_FullRisk(fitting._network), fitting._fitted, sampled, keep, available)
    assert (risks.device, risks.shape) == (meta, (len(members), fitting._fitted.padded.shape[1]))
    risks.sum().backward()
    for name, value in fitting._parameters.items():
        assert value.device == meta, name
        assert value.grad is None or (value.grad.device, value.grad.shape) == (meta, value.shape), name
    assert sum(value.grad is not None for value in fitting._parameters.values()) > 1


def test_tensors_of_two_devices_do_not_mix_on_the_pretended_gpu():
    with pretended_gpu() as gpu:
        on_gpu, on_cpu = torch.ones(3, device=gpu), torch.ones(3)
        with pytest.raises(RuntimeError, match="device"):
            on_gpu + on_cpu
        with pytest.raises(RuntimeError, match="numpy"):
            on_gpu.numpy()
