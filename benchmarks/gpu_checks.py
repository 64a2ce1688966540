"""What a GPU must get right, beside the CPU: comparisons for `gpu.py` and for `pytest -m gpu`.

Each takes its device, so that test/test_gpu_check.py runs them on the CPU. Limits are those of
survfuse/runtime/device.py and test/test_fusion.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from encoder_precision import CPU
from gpu_encoders import BRAIN, FULL, HALF
from gpu_results import Compared, Item, Result, Skipped
from gpu_shared import differing, strictly_deterministic
from gpu_training import training_checks
from torch import Tensor

from survfuse.networks.build import build
from survfuse.networks.ensemble import Ensemble, Member, Tensors
from survfuse.networks.families import Family, families_of
from survfuse.networks.sizes import Sizes
from survfuse.networks.weighting import MemberWeight, RiskScale
from survfuse.prediction.prediction import Prediction
from survfuse.runtime.arrays import Floats
from survfuse.runtime.device import chosen_devices
from survfuse.runtime.row_source import Rows2D
from survfuse.slide.precision import encoder_precision
from survfuse.slide.registry import ENCODERS
from survfuse.tasks.modalities import combination_name
from survfuse.tasks.registry import DEFAULT, WITH_VECTORS

if TYPE_CHECKING:
    from survfuse.explanation.explanation import Explanation

Of = TypeVar("Of")
ROOT = Path(__file__).resolve().parent.parent
RISK, MONTHS = 1e-6, 1e-3  # in standard deviations of the reference risks; relative
SLIDE_VECTOR, ATTENTION = 2e-3, 5e-3  # of fp16 in the layers over tiles: relative; sum of all tiles' differences
# Of one random member, whose rounding no ensemble averages: on the CPU, float64 in the layers over tiles moves a risk
# by up to 3e-6 standard deviations (`tensor`), a slide's vector by up to 4e-7.
MEMBER_RISK, MEMBER_VECTOR = 2e-5, 1e-5
CASES, BAG = 4, 1500
FULL_SIZE = Sizes(vector=768)
NO_HURRY = 1e6  # seconds
STANDARD = "the risk, in standard deviations"
# The task's, and those that only a task with slide-level vectors has: an outer product of four modalities is too large.
FAMILIES = {**families_of(WITH_VECTORS.modalities), **families_of(DEFAULT.modalities)}


def items(device: torch.device) -> list[Item]:
    """Everything but the encoders, which gpu_encoders.py has."""
    networks = {name: family for name, family in FAMILIES.items() if not family.linear}
    return [
        Item("precision", 5.0, lambda _: precisions(device)),
        *(_item("family", name, family_checks, family, device) for name, family in FAMILIES.items()),
        *(_item("job", case.name, job_checks, case, device) for case in sample_cases()),
        *(_item("explanation", case.name, explanation_checks, case, device) for case in sample_cases()),
        *(_item("training", name, training_checks, family, device) for name, family in networks.items()),
        Item("another GPU", 60.0, lambda _: another_gpu(device)),
    ]


def _item(
    kind: str, name: str, checks: Callable[[Of, torch.device], Iterator[Result]], of: Of, device: torch.device
) -> Item:
    return Item(f"{kind} {name}", 30.0, lambda _: checks(of, device))


def sample_cases() -> list[Path]:
    """The sample cases' folders."""
    return sorted((ROOT / "test/input").iterdir())


def precisions(device: torch.device) -> Iterator[Result]:
    """That every encoder runs in the precision that its entry and the GPU's generation ask for."""
    native = device.type == "cuda" and torch.cuda.get_device_properties(device).major >= 8  # Ampere and later
    wrong = 0
    for spec in ENCODERS.values():
        expected = (BRAIN if native else HALF) if spec.half_cuda and device.type == "cuda" else FULL
        if device.type == "cpu" and spec.half_cpu and torch.cpu._is_avx512_bf16_supported():
            expected = BRAIN
        wrong += encoder_precision(spec, device) != expected
    yield Compared("precision", "every encoder", wrong, 0.0, "encoders in another one")


def family_checks(
    family: Family,
    device: torch.device,
    changed: Callable[[Member], Member] = lambda m: m,
    sizes: Sizes = FULL_SIZE,
) -> Iterator[Result]:
    """One random member of ``family`` with ``sizes``, on a few cases; ``changed`` is what runs on ``device``."""
    member, scales = random_member(family, sizes)
    cases = [random_case(member, seed) for seed in range(CASES)]
    exact = Ensemble([member], scales, CPU)
    here = Ensemble([changed(member)], scales, device)
    risks = torch.tensor([exact.together([case])[0].risk for case in cases], dtype=torch.float64)
    found = torch.tensor([here.together([case])[0].risk for case in cases], dtype=torch.float64)
    apart = float((found - risks).abs().max() / risks.std())
    yield Compared("families, float32", family.name, apart, MEMBER_RISK, "a risk, in standard deviations")
    with strictly_deterministic():
        again = torch.tensor([here.together([case])[0].risk for case in cases], dtype=torch.float64)
    yield Compared("families, twice", family.name, differing(found, again), 0.0, "risks that differ")
    if "slide" in family.modalities and not family.linear:
        yield from pool_checks(family.name, here, exact, cases[0].tiles)


def pool_checks(name: str, here: Ensemble, exact: Ensemble, tiles: Rows2D | None) -> Iterator[Result]:
    """Layers over ``tiles`` [N, D] in float32, and in fp16 summed in float32, beside float32 on the CPU."""
    vector, weights = _pooled(exact, tiles)
    for half, of_vector, of_weights in ((False, MEMBER_VECTOR, MEMBER_VECTOR), (True, SLIDE_VECTOR, ATTENTION)):
        found, attention = _pooled(here, tiles, half)
        kind = f"families, {'fp16' if half else 'float32'}"
        apart = float((found - vector).norm() / vector.norm())
        yield Compared(kind, name, apart, of_vector, "the slide's vector, relative")
        yield Compared(kind, name, float((attention - weights).abs().sum()), of_weights, "attention, summed")


def _pooled(ensemble: Ensemble, tiles: Rows2D | None, half: bool = False) -> tuple[Tensor, Tensor]:
    """The slide's vector and attention of the ensemble's only member."""
    (pool,) = ensemble.pools(tiles, half)
    assert pool is not None
    return pool.result()


def random_member(family: Family, sizes: Sizes, seed: int = 0) -> tuple[Member, dict[str, RiskScale]]:
    """A member of ``family`` with random weights, and the scale of the combination that it scores."""
    torch.manual_seed(seed)
    sizes = sizes.for_modalities(family.task_modalities)
    network = build(family, sizes)
    for name, values in network.named_buffers():
        if name == "centres":
            values.normal_()  # of tile clusters, otherwise all in one place
    name = combination_name(family.modalities)
    member = Member(family, sizes, {name: MemberWeight(1.0, 0.0, 1.0)}, dict(network.state_dict()))
    return member, {name: RiskScale(0.0, 1.0)}


def random_case(member: Member, seed: int) -> Tensors:
    """A case with the modalities of ``member``; its tiles have a mean of their own, as those of a patient do."""
    random, sizes = torch.Generator().manual_seed(seed), member.sizes

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    bag = drawn(BAG, sizes.tile) + drawn(1, sizes.tile)
    given = {"slide": bag, "rna": drawn(sizes.genes), "clinical": drawn(sizes.clinical), "vector": drawn(sizes.vector)}
    has = {name: values if name in member.family.modalities else None for name, values in given.items()}
    return Tensors(has["slide"], has["rna"], has["clinical"], has["vector"])


def job_checks(case: Path, device: torch.device) -> Iterator[Result]:
    """A sample case by the demonstration bundle, from its files to its months, and the same once more."""
    from survfuse.bundle.load import load
    from survfuse.inputs.sockets import read_case
    from survfuse.prediction.predictor import Predictor

    bundle = load(ROOT / "resources/demonstration")
    read = read_case(case).loaded()
    exact = Predictor(bundle, "cpu").predict(read)
    predictor = Predictor(bundle, str(device))
    # The first prediction also chooses the device, which sets torch's mode.
    limited = predictor.predict(read, seconds=NO_HURRY)  # tiles in another order, their batches timed
    with strictly_deterministic():
        found, again = (predictor.predict(read) for _ in range(2))
    yield Compared("jobs, with a time limit", case.name, abs(limited.risk - exact.risk), RISK, STANDARD)
    yield Compared("jobs", case.name, abs(found.risk - exact.risk), RISK, STANDARD)
    yield Compared("jobs", case.name, abs(found.months / exact.months - 1.0), MONTHS, "months, relative")
    yield Compared("jobs, twice", case.name, _differences(found, again), 0.0, "values that differ")


def explanation_checks(case: Path, device: torch.device) -> Iterator[Result]:
    """The parts of a sample case's risk, whose tiles the GPU has pooled."""
    from survfuse.bundle.load import load
    from survfuse.explanation.explanation import COMPLETE, Explainer
    from survfuse.inputs.sockets import read_case
    from survfuse.prediction.predictor import Predictor

    bundle = load(ROOT / "resources/demonstration")
    read = read_case(case).loaded()
    exact, found = (_parts(Explainer(Predictor(bundle, name)).explain(read)) for name in ("cpu", str(device)))
    apart = float(np.abs(found - exact).max())
    yield Compared("explanations", case.name, apart, COMPLETE, "a part of the risk, in standard deviations")


def _parts(explanation: "Explanation") -> Floats:
    """What each tile, gene and variable adds to the risk, in this order."""
    of = explanation.attribution
    return np.concatenate([part.values for part in (of.tiles, of.genes, of.variables) if part is not None])


def another_gpu(device: torch.device) -> Iterator[Result]:
    """Jobs and training on the last GPU, while torch's current one is ``device``."""
    *others, last = chosen_devices("cuda")
    if not others:
        yield Skipped("another GPU", "there is only one")
        return
    for case in sample_cases():
        yield from job_checks(case, last)
    yield from training_checks(FAMILIES["bilinear"], last)


def _differences(first: Prediction, second: Prediction) -> int:
    """How many of the numbers of two predictions differ."""
    parts = [([first.risk, first.months], [second.risk, second.months]), (first.member_risks, second.member_risks)]
    if first.attention is not None:
        parts.append((first.attention, second.attention))
    return sum(int((np.asarray(a) != np.asarray(b)).sum()) for a, b in parts)
