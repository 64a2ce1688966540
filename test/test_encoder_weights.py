"""Weight files of tile encoders in their published layouts, against other implementations of the same networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from survfuse.bundle.encoder_weights import carry_weights
from survfuse.runtime.errors import InputError
from survfuse.slide.encoders import load_encoder
from survfuse.slide.registry import ENCODERS
from survfuse.slide.settings import SlideSettings
from survfuse.slide.weight_names import TO_TIMM, _dinov2_to_timm
from survfuse.slide.weights import build_network

CPU = torch.device("cpu")
BLOCKS = 1  # of each network: its blocks are alike, and test_encoders.py counts their parameters

# Width and heads as published: Virchow and Hibou in their papers, H0-mini and Midnight as ViT-B and ViT-g of DINOv2.
PUBLISHED = {
    "virchow": {"hidden_size": 1280, "num_attention_heads": 16},
    "h0-mini": {"hidden_size": 768, "num_attention_heads": 12, "num_register_tokens": 4},
    "hibou-l": {"hidden_size": 1024, "num_attention_heads": 16, "num_register_tokens": 4},
    "midnight-12k": {"hidden_size": 1536, "num_attention_heads": 24},
}


@pytest.fixture
def one_block(monkeypatch):
    """Encoders with their first block alone."""
    for name in (*PUBLISHED, "conch-v1.5"):
        spec = ENCODERS[name]
        monkeypatch.setitem(ENCODERS, name, replace(spec, arguments={**spec.arguments, "depth": BLOCKS}))


def random_dinov2(**sizes) -> nn.Module:
    """transformers' network of these sizes, with random weights in every layer."""
    registers = "num_register_tokens" in sizes
    sizes = {"num_hidden_layers": BLOCKS, "patch_size": 14, "image_size": 224, "use_swiglu_ffn": True} | sizes
    config = Dinov2WithRegistersConfig(**sizes) if registers else Dinov2Config(**sizes)
    torch.manual_seed(0)
    network = (Dinov2WithRegistersModel if registers else Dinov2Model)(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 0.05)
    return network


def random_tiles(side: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8))


def tokens_of(network: nn.Module, tiles: torch.Tensor, name: str) -> torch.Tensor:
    """All tokens [2, T, width] that transformers' ``network`` gives for tiles normalised as those of the encoder."""
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in ENCODERS[name].normalisation)
    with torch.inference_mode():
        return network(pixel_values=(tiles.permute(0, 3, 1, 2) / 255.0 - mean) / std).last_hidden_state


@pytest.mark.parametrize(
    ("name", "image_px"), [("virchow", 224), ("h0-mini", 518), ("hibou-l", 224), ("midnight-12k", 518)]
)
def test_features_are_those_of_the_same_network_in_transformers(tmp_path, one_block, name, image_px):
    """Also with position embeddings of larger images, which transformers resizes for each batch."""
    theirs = random_dinov2(**PUBLISHED[name], image_size=image_px)
    theirs.save_pretrained(tmp_path)  # writes the layout in which Hibou and Midnight are published
    file = tmp_path / "model.safetensors"
    if name not in TO_TIMM:  # published under timm's names
        with torch.device("meta"):
            network = build_network(ENCODERS[name])
        save_file({key: tensor.contiguous() for key, tensor in _dinov2_to_timm(load_file(file), network).items()}, file)
    found = load_encoder(name, file, CPU)(random_tiles(224))
    tokens = tokens_of(theirs, random_tiles(224), name)
    assert tokens.shape[1] == 1 + PUBLISHED[name].get("num_register_tokens", 0) + 16 * 16
    # The model cards: Hibou's class token, the others' class token and mean of the 256 patches' tokens.
    expected = tokens[:, 0] if name == "hibou-l" else torch.cat([tokens[:, 0], tokens[:, -256:].mean(dim=1)], dim=1)
    assert found.shape == expected.shape == (2, ENCODERS[name].dimension)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_conch_pools_its_tokens_by_attention(tmp_path, one_block):
    """Against transformers' blocks, torch's multi-head attention, and cubic convolution written out."""
    trunk = random_dinov2(hidden_size=1024, num_attention_heads=16, patch_size=16, image_size=448, use_swiglu_ffn=False)
    published = torch.randn(1, 1 + 14 * 14, 1024) * 0.05  # as in the weight file, of 14 × 14 patches
    weights = cubic_weights(14, 28)
    grid = np.einsum("ia,jb,abd->ijd", weights, weights, published[0, 1:].reshape(14, 14, 1024).double().numpy())
    patches = torch.from_numpy(grid).float().reshape(1, 28 * 28, 1024)
    with torch.no_grad():
        trunk.embeddings.position_embeddings.copy_(torch.cat([published[:, :1], patches], dim=1))
    trunk.save_pretrained(tmp_path)
    with torch.device("meta"):
        network = build_network(ENCODERS["conch-v1.5"]).trunk
    renamed = _dinov2_to_timm(load_file(tmp_path / "model.safetensors"), network)
    state = {f"trunk.{key}": value for key, value in renamed.items()} | {"trunk.pos_embed": published}

    attention = nn.MultiheadAttention(768, 8, bias=False, kdim=1024, vdim=1024, batch_first=True)
    norms = {"attn_pool_contrast.ln_q": nn.LayerNorm(768), "attn_pool_contrast.ln_k": nn.LayerNorm(1024)}
    norms["ln_contrast"] = nn.LayerNorm(768)
    query = torch.randn(1, 768)
    with torch.no_grad():
        for name, norm in norms.items():
            state[f"{name}.weight"] = norm.weight.normal_(1.0, 0.2)
            state[f"{name}.bias"] = norm.bias.normal_(0.0, 0.2)
    state["attn_pool_contrast.query"] = query
    state["attn_pool_contrast.to_q.weight"] = attention.q_proj_weight
    state["attn_pool_contrast.to_kv.weight"] = torch.cat([attention.k_proj_weight, attention.v_proj_weight])
    state["attn_pool_contrast.to_out.weight"] = attention.out_proj.weight
    save_file({key: value.detach().contiguous() for key, value in state.items()}, tmp_path / "conch.safetensors")

    tiles = random_tiles(448)
    found = load_encoder("conch-v1.5", tmp_path / "conch.safetensors", CPU)(tiles)
    with torch.inference_mode():
        tokens = norms["attn_pool_contrast.ln_k"](tokens_of(trunk, tiles, "conch-v1.5"))
        queries = norms["attn_pool_contrast.ln_q"](query).expand(2, 1, 768)
        expected = norms["ln_contrast"](attention(queries, tokens, tokens)[0][:, 0])
    assert found.shape == (2, 768)
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    carried = carry_weights(SlideSettings("conch-v1.5", 768, 448), tmp_path, tmp_path / "conch.safetensors")
    again = load_encoder("conch-v1.5", tmp_path / str(carried.weights), CPU)(tiles)
    # Some processors round by where a file has the weights.
    assert torch.allclose(again, found, rtol=0.0, atol=1e-5)


def cubic_weights(old: int, new: int) -> np.ndarray:
    """[new, old]: cubic convolution (Keys 1981, a = -0.75) at the places that ``new`` patches and a tenth have."""
    weights = np.zeros((new, old))
    for row in range(new):
        place = (row + 0.5) * old / (new + 0.1) - 0.5
        for column in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            far = abs(place - column)
            near = 1.25 * far**3 - 2.25 * far**2 + 1 if far <= 1 else -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
            weights[row, np.clip(column, 0, old - 1)] += near
    return weights


def test_another_encoders_weights_are_refused(tmp_path, one_block):
    random_dinov2(**PUBLISHED["hibou-l"]).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    positions = state["embeddings.position_embeddings"]
    for broken in (state, {}, state | {"embeddings.position_embeddings": positions[:, :6].contiguous()}):
        save_file(broken, tmp_path / "broken.safetensors")
        for name in ("midnight-12k", "conch-v1.5", "h0-mini"):
            with pytest.raises(InputError, match=f"broken.safetensors: not the weights of {name}"):
                load_encoder(name, tmp_path / "broken.safetensors", CPU)
        if broken is not state:
            with pytest.raises(InputError, match=r"broken.safetensors: not the weights of hibou-l"):
                load_encoder("hibou-l", tmp_path / "broken.safetensors", CPU)
