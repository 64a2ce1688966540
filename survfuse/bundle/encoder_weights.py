"""A tile encoder's weights inside a bundle."""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from survfuse.slide.encoders import embedded_digest, load_network
from survfuse.slide.settings import SlideSettings


def carry_weights(settings: SlideSettings, root: Path, weights: Path | None) -> SlideSettings:
    """Place the encoder's weights in the bundle as safetensors, under timm's names; or name the embedded ones.

    Returns the settings that say so. Raises InputError for weights of another encoder.
    """
    if weights is None:
        return replace(settings, embedded_sha256=embedded_digest(settings.encoder))
    state = load_network(settings.encoder, weights).state_dict()
    file = "encoder/weights.safetensors"
    (root / file).parent.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, root / file)
    return replace(settings, weights=file)
