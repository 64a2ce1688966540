"""How long the rest of a job takes after its tiles are encoded, measured on its own networks."""

from typing import TYPE_CHECKING

from survfuse.runtime.clock import TimeLimit, elapsed

if TYPE_CHECKING:
    import torch

    from survfuse.networks.ensemble import Ensemble


def time_limit(
    seconds: float,
    ensemble: "Ensemble",
    rna: "torch.Tensor | None",
    clinical: "torch.Tensor | None",
    dimension: int,
    half: bool = False,
    vector: "torch.Tensor | None" = None,
) -> TimeLimit:
    """The limit of a job that may take ``seconds``, with what follows the encoding estimated from the number of tiles.

    The ensemble is called as it will be, in half precision if ``half``. It is timed on one and on two parts of a bag of
    tiles [N, ``dimension``]; the rest is linear.
    """
    import torch

    from survfuse.networks.ensemble import TILES_AT_A_TIME

    def taken(parts: int) -> float:
        started = elapsed()
        ensemble(torch.zeros(parts * TILES_AT_A_TIME, dimension), rna, clinical, half=half, vector=vector)
        return elapsed() - started

    taken(1)  # the first pass also reads the weights from disk, and starts a GPU
    one, two = taken(1), taken(2)
    return TimeLimit(seconds, lambda tiles: one + max(two - one, 0.0) * tiles / TILES_AT_A_TIME)
