"""A tile encoder's weights inside a bundle."""

from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

from survfuse.slide.settings import SlideSettings
from survfuse.slide.weights import embedded_digest, load_network


def carry_weights(settings: SlideSettings, root: Path, weights: Path | None) -> SlideSettings:
    """Write the encoder's weights into the bundle as safetensors, under timm's names, or name the embedded ones.

    Returns the settings that say which. Raises InputError for weights of another encoder.
    """
    if weights is None:
        return replace(settings, embedded_sha256=embedded_digest(settings.encoder))
    state = load_network(settings.encoder, weights).state_dict()
    file = "encoder/weights.safetensors"
    (root / file).parent.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, root / file)
    return replace(settings, weights=file)
