"""What `make gpu-check` checks of a GPU, one test for each item: python -m pytest -m gpu."""

import gpu_checks
import gpu_speeds
import pytest
import torch
from gpu_encoders import encoder_checks
from gpu_results import Clock, Compared, failures, line

from survfuse.runtime.device import chosen_device
from survfuse.runtime.errors import EnvironmentFailure
from survfuse.slide.registry import ENCODERS

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    try:
        return chosen_device("cuda")
    except EnvironmentFailure as failure:
        pytest.skip(str(failure))


def passes(results) -> None:
    found = list(results)
    assert any(isinstance(result, Compared) for result in found)
    assert [line(result) for result in failures(found)] == []


@pytest.mark.parametrize("name", [item.name for item in gpu_checks.items(torch.device("cuda"))])
def test_an_item_passes(gpu, name):
    (item,) = (item for item in gpu_checks.items(gpu) if item.name == name)
    passes(item.results(Clock(item.seconds)))


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_gives_the_features_that_it_gives_on_the_cpu(gpu, name):
    passes(encoder_checks(name, gpu)[1])
    torch.cuda.empty_cache()


@pytest.mark.parametrize("name", gpu_speeds.SHRINKS)
def test_a_batch_shrinks_where_memory_runs_out(gpu, name):
    passes(gpu_speeds.little_memory(encoder_checks(name, gpu)[0]))
