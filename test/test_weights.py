"""Networks without memory, and weights used where they lie."""

import hashlib
import subprocess
import sys

import pytest
import torch
from conftest import DEMONSTRATION, ROOT

import survfuse.runtime.files
from survfuse.bundle.load import load, load_members
from survfuse.networks.build import build, build_with
from survfuse.networks.ensemble import Ensemble
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.tensors import all_finite, shapes_only
from survfuse.slide.registry import ENCODERS
from survfuse.slide.weights import build_network
from survfuse.tasks.registry import DEFAULT

FAMILIES = families_of(DEFAULT.modalities)
SIZES = Sizes(tile=12, bag=8, attention=6, genes=9, rna=(7, 5), clinical=4, rank=3, clusters=3, stand_ins=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_those_of_a_network_with_memory(family):
    with shapes_only():
        hollow = build(FAMILIES[family], SIZES)
    full = build(FAMILIES[family], SIZES)
    assert all(tensor.is_meta for tensor in hollow.state_dict().values())
    shapes = [{name: tensor.shape for name, tensor in each.state_dict().items()} for each in (hollow, full)]
    assert shapes[0] == shapes[1]


def test_no_encoder_keeps_anything_that_its_weights_would_not_fill():
    """A buffer outside the state would stay without memory, and fail when it is first used."""
    for name in ("efficientnet-lite0", "uni", "phikon", "uni2-h", "hibou-l", "conch-v1.5"):
        with shapes_only():
            network = build_network(ENCODERS[name])
        names = {key for key, _ in [*network.named_parameters(), *network.named_buffers()]}
        assert names == set(network.state_dict())


def test_values_are_drawn_again_afterwards():
    with shapes_only():
        build(FAMILIES["bilinear"], SIZES)
    torch.manual_seed(0)
    assert build(FAMILIES["bilinear"], SIZES).bag.project.weight.std() > 0.01


def test_weights_are_not_copied():
    state = build(FAMILIES["bilinear"], SIZES).state_dict()
    network = build_with(FAMILIES["bilinear"], SIZES, state)
    assert network.rna.layers[0].weight.data_ptr() == state["rna.layers.0.weight"].data_ptr()
    ensemble = Ensemble(load_members(load(DEMONSTRATION)), load(DEMONSTRATION).manifest.combinations)
    for member, network in zip(ensemble.members, ensemble._networks, strict=True):
        assert all(network.state_dict()[name].data_ptr() == member.state[name].data_ptr() for name in member.state)


def test_loading_members_imports_no_compiler():
    """torch fills tensors without memory through its compiler, whose import takes longer than all of a job's work."""
    code = (
        "import sys; from pathlib import Path; from survfuse.bundle.load import load, load_members;"
        "from survfuse.networks.ensemble import Ensemble; bundle = load(Path(sys.argv[1]));"
        "Ensemble(load_members(bundle), bundle.manifest.combinations);"
        "print(sorted({'sympy', 'torch._dynamo', 'torch._inductor'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(DEMONSTRATION)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert ended.stdout == "[]\n", ended.stderr


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
def test_one_broken_value_is_found(broken):
    values = torch.randn(50, 70)
    assert all_finite(values) and all_finite(torch.empty(0)) and all_finite(values.half())
    values[31, 7] = broken
    assert not all_finite(values)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1000])
def test_sha256_is_hashlibs_whatever_the_pieces(tmp_path, monkeypatch, length):
    monkeypatch.setattr(survfuse.runtime.files, "_PIECE", 64)
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4)
    (tmp_path / "file").write_bytes((tmp_path / "file").read_bytes()[:length])
    assert (
        survfuse.runtime.files.sha256(tmp_path / "file") == hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest()
    )
