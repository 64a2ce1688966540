"""Fitting one unit: a stateless function that an executor can call anywhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch

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
from survfuse.training.member_risks import network_risks
from survfuse.training.training_data import TrainingData
from survfuse.training.work_units import WorkUnit

_ONE_AT_A_TIME = Lock()  # torch has one random generator for all threads of a process


def fit_unit(data: TrainingData, unit: WorkUnit, device: torch.device) -> list[TrainedMember]:
    """The trained members of ``unit``, one for each of its splits and in their order.

    The same arguments and number of threads give the same members, on the CPU to the last bit; torch's random state is
    left as it was. In one process, units are fitted one at a time. Reads and writes no file but the cohort's bags.
    Raises InputError if a member cannot be fitted, and EnvironmentFailure if memory runs out.
    """
    with (
        _ONE_AT_A_TIME,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        _deterministic(device),
    ):
        try:
            return _fit_unit(data, unit, device)
        except (RuntimeError, MemoryError) as cause:
            if not memory_ran_out(cause):
                raise
            raise EnvironmentFailure(f"{as_survfuse_error(cause)}; {_while_fitting(data, unit, device)}") from cause


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
        clusters = data.clusters(members[0].split) if "slide" in family.modalities else None
        fitted = fit_cox(family, members, clusters, cohort.times, cohort.events)
    else:
        optimisation, seed = data.protocol.optimisation, data.protocol.seed
        fitted = fit_networks(
            family, sizes, members, cohort.bags, cohort.times, cohort.events, optimisation, seed, device
        )
    return [
        TrainedMember(family, member.split, own, _risks(data, family, sizes, member, own, device))
        for member, own in zip(members, fitted, strict=True)
    ]


def _risks(
    data: TrainingData, family: Family, sizes: Sizes, member: Prepared, fitted: Fitted, device: torch.device
) -> dict[Combination, Floats]:
    """The member's risks [n] of its inner and held-out patients; NaN for those it was fitted to."""
    network = build(family, sizes)
    network.load_state_dict(fitted.state)
    rows = np.union1d(member.split.inner, member.split.held_out)
    scored = network_risks(network, data.cohort.bags, member.inputs, data.combinations(family), rows.tolist(), device)
    risks = {}
    for combination, values in scored.items():
        risks[combination] = np.full(len(data.cohort.ids), np.nan)
        risks[combination][rows] = values.numpy()
    return risks
