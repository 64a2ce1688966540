"""Features of half precision are one thing, however a case comes: as a file, in memory, or in a cohort."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch

import survfuse
from survfuse.cohort.bags import open_bag

RANDOM = np.random.default_rng(4)
HALF = RANDOM.normal(size=(37, 1280)).astype(np.float16)


@pytest.fixture
def ways(tmp_path) -> dict[str, survfuse.Case]:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["features"] = HALF
    torch.save(torch.from_numpy(HALF), tmp_path / "x.pt")
    whole = open_bag([tmp_path / "x.h5"], tmp_path / "cache").whole()
    sources = {"h5": tmp_path / "x.h5", "pt": tmp_path / "x.pt", "array": HALF, "cohort": whole}
    return {name: survfuse.Case(features=source, name=name) for name, source in sources.items()}


def test_the_numbers_are_the_same_to_the_last_bit(model, ways):
    """Side by side with others too: there, on some processors, its place among them changes how a case is rounded."""
    single = survfuse.Case(features=HALF.astype(np.float32))
    expected = model.predict(single)
    for case in ways.values():
        found = model.predict(case)
        assert found.risk == expected.risk and np.array_equal(found.member_risks, expected.member_risks)
    many, copies = (list(model.predict_many(cases, progress=False)) for cases in (ways.values(), [single] * len(ways)))
    assert [found.risk for found in many] == [found.risk for found in copies]
    assert [found.risk for found in many] == pytest.approx([expected.risk] * len(ways), rel=1e-6)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_one_place_decides_whether_layers_run_in_half_precision(model, ways, on_gpu, monkeypatch):
    """In predict and predict_many, for features of half precision on a GPU and for no others."""
    given = []

    def together(cases, half):
        given.append(half)
        return [SimpleNamespace(risk=float("nan"))] * len(cases)

    predictor = model._predictor
    monkeypatch.setattr(type(predictor), "_on_gpu", on_gpu)
    monkeypatch.setitem(vars(predictor), "ensemble", SimpleNamespace(together=together))
    for case in ways.values():
        with pytest.raises(survfuse.InputError, match="the risk is nan"):
            model.predict(case)
        with pytest.raises(survfuse.InputError, match="the risk is nan"):
            model.predict_many([case], progress=False)
    assert given == [on_gpu] * 2 * len(ways)
    with pytest.raises(survfuse.InputError, match="the risk is nan"):
        model.predict(survfuse.Case(features=HALF.astype(np.float32)))
    assert given[-1] is False
