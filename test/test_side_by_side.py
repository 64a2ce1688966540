"""Cases of a cohort are scored side by side, each as it is scored alone."""

import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, on_threads

import survfuse
from survfuse.networks.build import build, build_with
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.prediction import side_by_side
from survfuse.prediction.predictor import Inputs
from survfuse.prediction.side_by_side import scored
from survfuse.prediction.sources import UnusableCase
from survfuse.prediction.vectors import SlideTiles
from survfuse.runtime.errors import BundleError, InputError
from survfuse.runtime.log import Record

RANDOM = np.random.default_rng(0)
CLINICAL = {"age": 71, "sex": "Male", "stage": "T1HG"}


def a_case(number: int) -> survfuse.Case:
    """Small and large bags, single tiles, half precision, and cases that lack a modality, in turn."""
    tiles = (5, 64, 1, 300, 1100, 33, 0)[number % 7]
    features = RANDOM.normal(size=(tiles, 1280)).astype(np.float16 if number % 3 else np.float32) if tiles else None
    clinical = CLINICAL | {"age": 40 + number} if number % 5 or features is None else None
    return survfuse.Case(features=features, clinical=clinical, name=f"case {number}")


def on_one_thread(model, case):
    with on_threads(1):
        return model.predict(case)


def test_every_case_gets_the_numbers_that_it_gets_alone(model):
    """But for the last digits of float32: matrix products of more rows may be summed in another order."""
    cases = [a_case(number) for number in range(40)]
    with on_threads(2):
        together = model.predict_many(cases, progress=False)
        assert torch.get_num_threads() == 2
    for case, found in zip(cases, together, strict=True):
        alone = on_one_thread(model, case)
        assert (found.name, found.combination) == (alone.name, alone.combination)
        assert found.risk == pytest.approx(alone.risk, abs=1e-6) and found.terms == pytest.approx(alone.terms, abs=1e-6)
        assert found.member_risks == pytest.approx(alone.member_risks, abs=1e-5)
        assert (found.attention is None) == (alone.attention is None)
        assert found.attention is None or found.attention == pytest.approx(alone.attention, rel=1e-5)


def test_large_cases_get_exactly_the_numbers_of_one_thread(model):
    cases = [survfuse.Case(features=RANDOM.normal(size=(300, 1280)).astype(np.float32)) for _ in range(4)]
    with on_threads(2):
        together = model.predict_many(cases, progress=False)
    assert [found.risk for found in together] == [on_one_thread(model, case).risk for case in cases]


def test_cases_that_cannot_be_used_are_named_and_threads_are_as_before(model):
    cases = [a_case(number) for number in range(12)]
    cases[4] = survfuse.Case(clinical={"age": 400}, name="old")
    cases[9] = survfuse.Case(clinical={"age": -5.5}, name="young")
    with on_threads(2):
        with pytest.raises(InputError, match=r"2 of 12 cases cannot be predicted: old, young: "):
            model.predict_many(cases, progress=False)
        assert torch.get_num_threads() == 2


def inputs(name: str, tiles: int) -> Inputs:
    features = torch.zeros(tiles, 4)
    return Inputs(survfuse.Case(features=features, name=name), None, None, SlideTiles(features, False, None), Record())


class Told:
    """A predictor that notes which cases it was given together."""

    device = torch.device("cpu")

    def __init__(self, broken: str = "") -> None:
        self.groups: list[list[str]] = []
        self.broken = broken

    def risks(self, cases):
        names = [case.name for case in cases]
        self.groups.append(names)
        if self.broken in names:
            raise BundleError("broken")
        return names

    def concluded(self, case, risk):
        assert case.name == risk
        return SimpleNamespace(name=risk)


def test_only_small_cases_with_the_same_modalities_are_scored_together():
    sizes = [10, 20, 256, 257, 8, 3, 9, 200, 200, 200, 200, 200, 200]
    cases = [inputs(f"{place}", tiles) for place, tiles in enumerate(sizes)]
    cases.insert(2, UnusableCase("bad", InputError("bad")))
    cases.append(Inputs(survfuse.Case(clinical={"age": 71}, name="no slide"), None, torch.zeros(3), None, Record()))
    told = Told()
    with on_threads(2):
        names = [outcome.name for outcome in scored(told, cases, 100)]
    assert names == [case.name for case in cases]
    assert sorted(told.groups, key=lambda group: names.index(group[0])) == [
        *(["0", "1"], ["2"], ["3"], ["4", "5", "6", "7", "8", "9", "10", "11"], ["12"], ["no slide"])
    ]


def test_an_error_of_the_bundle_ends_it_and_no_further_case_is_read():
    read = []

    def cases():
        for number in range(1000):
            read.append(number)
            yield inputs(f"{number}", 5)

    with on_threads(2):
        with pytest.raises(BundleError, match="broken"):
            list(scored(Told("3"), cases(), 1000))
        assert torch.get_num_threads() == 2
    assert len(read) < 200


def test_no_more_tile_features_are_read_ahead_than_are_allowed(monkeypatch):
    monkeypatch.setattr(side_by_side, "_MOST_HELD", 10_000)
    held = most = 0

    def cases():
        nonlocal held, most
        for number in range(20):
            held += 300 * 4 * 4  # bytes
            most = max(most, held)
            yield inputs(f"{number}", 300)

    with on_threads(2):
        for _ in scored(Told(), cases(), 20):
            held -= 300 * 4 * 4
    assert most <= 10_000 + 2 * 300 * 4 * 4  # and one that is being read


def test_frozen_networks_have_the_same_tensors_and_no_parameters():
    """torch keeps Python's lock during an operation on a parameter, and cases would wait for each other."""
    sizes = Sizes(tile=6, bag=8, attention=4, genes=7, rna=(8, 6), clinical=5)
    for family in families_of(("slide", "rna", "clinical")).values():
        state = build(family, sizes).state_dict()
        frozen = build_with(family, sizes, state)
        assert not list(frozen.parameters())
        assert {name: tensor.data_ptr() for name, tensor in frozen.state_dict().items()} == {
            name: tensor.data_ptr() for name, tensor in state.items()
        }


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"), ({"GOMP_SPINCOUNT": "1000"}, None)],
)
def test_waiting_threads_sleep_unless_the_environment_says_otherwise(given, expected):
    code = "import os; from survfuse.runtime.waiting import wait_asleep; wait_asleep(); "
    code += "print(os.environ.get('OMP_WAIT_POLICY'))"
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    told = subprocess.run(
        [sys.executable, "-c", code], env=plain | {"PYTHONPATH": str(ROOT)} | given, capture_output=True, text=True
    )
    assert told.stdout.strip() == str(expected)
    for entry in ("inference.py", "survfuse/cli/main.py"):
        assert "wait_asleep()" in (ROOT / entry).read_text()
