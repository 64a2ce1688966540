"""Fitting one unit: a stateless function that an executor can call anywhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from survfuse.networks.build import build
from survfuse.networks.families import Family
from survfuse.networks.sizes import Sizes
from survfuse.runtime.arrays import Floats
from survfuse.runtime.errors import EnvironmentFailure, as_survfuse_error, memory_ran_out
from survfuse.runtime.log import count
from survfuse.tasks.modalities import Combination
from survfuse.training.fit_cox import fit_cox
from survfuse.training.fit_networks import fit_networks, inner_sizes
from survfuse.training.member import Fitted, Prepared, TrainedMember
from survfuse.training.member_risks import network_risks, slide_vectors
from survfuse.training.training_data import TrainingData
from survfuse.training.work_units import WorkUnit

_ONE_AT_A_TIME = Lock()  # torch has one random generator for all threads of a process


def fit_unit(data: TrainingData, unit: WorkUnit, device: torch.device) -> list[TrainedMember]:
    """The trained members of ``unit``, one for each of its splits and in their order.

    The same arguments and number of threads give the same members, on the CPU to the last bit; torch's random state is
    left as it was. In one process, units are fitted one at a time. Reads and writes no file but the cohort's bags.
    Raises InputError if a member cannot be fitted, and EnvironmentFailure if memory runs out.
    """
    with _alone(device):
        try:
            return _fit_unit(data, unit, device)
        except (RuntimeError, MemoryError) as cause:
            if not memory_ran_out(cause):
                raise
            raise EnvironmentFailure(f"{as_survfuse_error(cause)}; {_while_fitting(data, unit, device)}") from cause


def read_slides(data: TrainingData, units: Sequence[WorkUnit], device: torch.device) -> None:
    """Read every slide once for all linear models among ``units``; ``fit_unit`` would do it again for every fold.

    The members are the same with and without it. Raises what ``fit_unit`` raises.
    """
    linear = [unit for unit in units if _reads_clusters(data.families[unit.family])]
    with _alone(device):
        data.read_slides((data.splits_by_name[name].fold_key for unit in linear for name in unit.splits), device)


@contextmanager
def _alone(device: torch.device) -> Iterator[None]:
    """One computation of the process at a time, reproducible, which leaves torch's random state as it was."""
    with (
        _ONE_AT_A_TIME,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        _deterministic(device),
    ):
        yield


def _reads_clusters(family: Family) -> bool:
    """Whether a family's members look at shares of tile clusters."""
    return family.linear and "slide" in family.modalities


def _while_fitting(data: TrainingData, unit: WorkUnit, device: torch.device) -> str:
    """What was being fitted when memory ran out, and which options need less of it."""
    family, optimisation = data.families[unit.family], data.protocol.optimisation
    on_gpu = device.type == "cuda"
    advice = []
    if "slide" in family.modalities and not family.linear:
        advice.append(f"--tiles below {optimisation.tiles:,} needs less")
    if on_gpu:
        advice.append("--device cpu uses the machine's memory")
    members = f"{count(len(unit.splits), 'member')} of {family.name}"
    fitting = f"{members} were being fitted on the {'GPU' if on_gpu else 'CPU'}"
    return f"{fitting}: {', '.join(advice)}" if advice else fitting


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Let torch use deterministic algorithms only, on a CPU, so that the same training gives the same bytes."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu" or before[0], warn_only=before[1])
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _fit_unit(data: TrainingData, unit: WorkUnit, device: torch.device) -> list[TrainedMember]:
    family, cohort = data.families[unit.family], data.cohort
    members = [data.prepared(family, data.splits_by_name[name]) for name in unit.splits]
    sizes = inner_sizes(data.family_sizes(family))
    if family.linear:
        clusters = data.clusters(members[0].split, device) if _reads_clusters(family) else None
        fitted = fit_cox(family, members, clusters, cohort.times, cohort.events)
    else:
        optimisation, seed = data.protocol.optimisation, data.protocol.seed
        fitted = fit_networks(
            family, sizes, members, cohort.bags, cohort.times, cohort.events, optimisation, seed, device
        )
    risks = _risks(data, family, sizes, members, fitted, device)
    return [
        TrainedMember(family, member.split, own, scored)
        for member, own, scored in zip(members, fitted, risks, strict=True)
    ]


def _risks(
    data: TrainingData,
    family: Family,
    sizes: Sizes,
    members: Sequence[Prepared],
    fitted: Sequence[Fitted],
    device: torch.device,
) -> Iterator[dict[Combination, Floats]]:
    """Each member's risks [n] of its inner and held-out patients; NaN for those it was fitted to."""
    networks = [build(family, sizes) for _ in members]
    for network, own in zip(networks, fitted, strict=True):
        network.load_state_dict(own.state)
    rows = [member.split.scored.tolist() for member in members]
    slides: Sequence[Tensor | None] = [None] * len(members)
    if _reads_clusters(family):
        slides = [data.clusters(member.split, device).scored[member.split.name] for member in members]
    elif "slide" in family.modalities:
        assert data.cohort.bags is not None
        slides = slide_vectors(networks, data.cohort.bags, rows, device)
    for network, member, own, seen in zip(networks, members, rows, slides, strict=True):
        bags, combinations = data.cohort.bags, data.combinations(family)
        scored = network_risks(network, bags, member.inputs, combinations, own, device, seen)
        risks = {combination: np.full(len(data.cohort.ids), np.nan) for combination in scored}
        for combination, values in scored.items():
            risks[combination][own] = values.numpy()
        yield risks
