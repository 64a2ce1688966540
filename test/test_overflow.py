"""Features that overflow in half precision: those tiles are encoded again in float32, and said."""

import numpy as np
import pytest
import torch
from conftest import MASK, SLIDE
from torch import nn

from survfuse.runtime.clock import TimeLimit
from survfuse.runtime.errors import BundleError, EnvironmentFailure
from survfuse.slide.encoders import Encoder
from survfuse.slide.extract import extract
from survfuse.slide.registry import ENCODERS
from survfuse.slide.settings import SlideSettings

CPU = torch.device("cpu")
SPEC = ENCODERS["efficientnet-lite0"]


class Overflowing(nn.Module):
    """The mean colour times ``factor``: beyond fp16's 65,504 on tiles that are dark or bright enough."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.wide = nn.Linear(3, SPEC.dimension, bias=False)
        nn.init.constant_(self.wide.weight, factor)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.wide(pixels.mean(dim=(2, 3)))


def extracted(precision: torch.dtype, factor: float, limit: TimeLimit | None = None):
    encoder = Encoder(SPEC, Overflowing(factor), CPU)
    encoder.precision = precision
    settings = SlideSettings(SPEC.name, SPEC.dimension)
    return extract(SLIDE, MASK, settings, None, CPU, BundleError, lambda: encoder, limit)


def test_tiles_that_overflow_are_encoded_again_in_float32_and_said(capsys):
    exact = extracted(torch.float32, 4e4)
    overflowing = (exact.features.abs() > 65504).any(dim=1)
    assert 0 < int(overflowing.sum()) < len(overflowing) == 11
    found = extracted(torch.float16, 4e4)
    assert found.half
    assert torch.equal(found.features[overflowing], exact.features[overflowing])
    assert torch.allclose(found.features[~overflowing], exact.features[~overflowing], rtol=1e-2, atol=100.0)
    assert np.array_equal(found.origins, exact.origins)
    said = f"overflows in float16 on {int(overflowing.sum())} of 11 tiles; {int(overflowing.sum())} encoded again in"
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1


def test_nothing_is_said_where_nothing_overflows(capsys):
    extracted(torch.float16, 1.0)
    assert capsys.readouterr().err == ""


def test_features_that_overflow_in_float32_too_are_the_bundles_fault():
    with pytest.raises(BundleError, match="NaN or infinite features in float32"):
        extracted(torch.float16, 3e38)


def test_without_time_tiles_are_left_out_and_too_few_end_the_job(monkeypatch):
    """The limit allows the first pass, of 11 tiles in one batch, and nothing after it."""
    calls = iter([True])
    monkeypatch.setattr(TimeLimit, "allows", lambda *_: next(calls, False))
    with pytest.raises(EnvironmentFailure, match="of 11 tissue tiles encoded in time, expected at least 11"):
        extracted(torch.float16, 4e4, TimeLimit(900.0, lambda _: 0.0))
