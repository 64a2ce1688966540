"""Cox's linear models over expression, clinical variables, slide-level vectors and shares of tile clusters."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from survfuse.networks.attention import Keep
from survfuse.networks.network import Network, read_out
from survfuse.networks.online_softmax import Pool, Pooling
from survfuse.networks.sizes import Sizes
from survfuse.networks.terms import Term
from survfuse.tasks.task import VECTOR


class LinearCox(Network):
    """Cox's linear model: risk = w_s · (shares of tile clusters) + w_r · (expression) + w_c · c.

    A slide-level vector adds a term of its own.
    ``means`` are the fitted patients' mean vectors: they stand in for a missing modality.
    """

    centres: Tensor

    @property
    def terms(self) -> tuple[Term, ...]:
        """One for each modality."""
        return tuple(Term((modality,)) for modality in self.modalities)

    def _build(self, sizes: Sizes) -> None:
        widths = {
            "slide": sizes.clusters,
            "rna": sizes.components or sizes.genes,
            "clinical": sizes.clinical,
            VECTOR: sizes.vector_components or sizes.vector,
        }
        if "slide" in self.modalities:
            self.register_buffer("centres", torch.zeros(sizes.clusters, sizes.tile))
        self.means = nn.ParameterDict({name: nn.Parameter(torch.zeros(widths[name])) for name in self.modalities})
        self.risk = nn.Linear(sum(widths[name] for name in self.modalities), 1)

    def dropout(self, tiles: int) -> dict[str, tuple[tuple[int, ...], float]]:  # noqa: ARG002
        """No masks: nothing is dropped."""
        return {}

    def pooling(self, device: torch.device, half: bool = False) -> Pooling:  # noqa: ARG002
        """What makes empty bags whose shares of tile clusters are counted on ``device``."""
        centres = self.centres.to(device)
        return lambda _: SharesPool(centres)

    def rna_entry(self) -> tuple[Tensor, Tensor] | None:
        """Weight [K, genes] and bias [K] of the map to components; None without one."""
        return (self.expression.weight, self.expression.bias) if self.sizes.components else None

    def rna_vector(self, entered: Tensor) -> Tensor:
        """Components, or genes, as they are [B, width]."""
        return entered

    def _encode_slide(self, tiles: Tensor, present: Tensor | None, keep: Keep | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return cluster_shares(tiles, present, self.centres)

    def _encode_rna(self, rna: Tensor, keep: Keep | None) -> Tensor:  # noqa: ARG002
        return rna

    def _encode_vector(self, vector: Tensor, keep: Keep | None) -> Tensor:  # noqa: ARG002
        return vector

    def _stand_in(self, modality: str) -> Tensor:
        mean: Tensor = self.means[modality]
        return mean

    def _fuse(self, vectors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return read_out(list(vectors.values()), self.risk)


def cluster_shares(tiles: Tensor, present: Tensor | None, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each case's tiles [B, N, tile] nearest to each of ``centres`` [K, tile]: [B, K]; attention [B, N]."""
    nearest = _nearest(tiles, centres).unsqueeze(-1) == torch.arange(len(centres), device=centres.device)
    has = torch.ones_like(tiles[..., 0]) if present is None else present.to(tiles.dtype)
    attention = has / has.sum(-1, keepdim=True)
    return (nearest * attention.unsqueeze(-1)).sum(-2), attention


def _nearest(tiles: Tensor, centres: Tensor) -> Tensor:
    """The row of ``centres`` [K, tile] nearest to each of ``tiles`` [..., tile]: [...]."""
    distance = (centres**2).sum(-1) - tiles @ (2.0 * centres).mT  # but for |tile|², the same for every centre
    return distance.argmin(dim=-1)


class SharesPool(Pool):
    """One bag's ``cluster_shares``, counted in parts."""

    def __init__(self, centres: Tensor) -> None:
        self._centres = centres
        self._counts = torch.zeros(len(centres), dtype=torch.int64, device=centres.device)
        self._tiles = 0

    def add(self, tiles: Tensor) -> None:
        """Count the next tiles [n, tile]."""
        nearest = _nearest(tiles.to(self._centres.dtype), self._centres)
        self._tiles += len(tiles)
        self._counts += (nearest.unsqueeze(-1) == torch.arange(len(self._centres), device=nearest.device)).sum(0)

    def result(self) -> tuple[Tensor, Tensor]:
        """Shares of clusters [1, K] and the same attention [1, N] for every tile."""
        share = self._counts.cpu().to(self._centres.dtype) / self._tiles
        return share.unsqueeze(0), torch.full((1, self._tiles), 1.0 / self._tiles, dtype=self._centres.dtype)

    def along(self, tiles: Tensor, direction: Tensor) -> Tensor:
        """The entry of ``direction`` [K] that belongs to the cluster of each of the tiles [n, tile]: [n]."""
        nearest = _nearest(tiles.to(self._centres.dtype), self._centres)
        return direction.to(nearest.device)[nearest].cpu()
