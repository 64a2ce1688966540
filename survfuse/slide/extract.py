"""One slide → its tile features, stage by stage, for the job and for ``extract``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survfuse.runtime.clock import TimeLimit
from survfuse.runtime.errors import BundleError, EnvironmentFailure, SurvfuseError
from survfuse.runtime.log import count, stage, warn
from survfuse.slide.encode import tile_features
from survfuse.slide.encoders import Encoder, load_encoder
from survfuse.slide.grid import Grid
from survfuse.slide.overflow import without_overflow
from survfuse.slide.pixels import Slide
from survfuse.slide.registry import find_spec
from survfuse.slide.settings import SlideSettings
from survfuse.slide.tile_places import TilePlaces
from survfuse.slide.tissue import find_tissue
from survfuse.slide.weights import embedded_digest

_FEWEST_TILES = 32  # that must be encoded within a time limit for a prediction; all of them, if the slide has fewer


@dataclass(frozen=True)
class Extracted:
    """Tile features, and where on the slide the tiles lie."""

    features: Tensor  # [N, D] float32
    origins: NDArray[np.int64]  # [N, 2] level-0 x, y
    grid: Grid
    mpp: tuple[float, float]  # µm per level-0 pixel, x and y
    half: bool  # whether the encoder computed in half precision

    @property
    def places(self) -> TilePlaces:
        """Where the tiles lie."""
        return TilePlaces(self.origins, self.grid.side, (self.grid.width, self.grid.height), self.mpp)


def extract(
    path: Path,
    mask: Path | None,
    settings: SlideSettings,
    weights: Path | None,
    device: torch.device,
    error: type[SurvfuseError],
    encoder: Callable[[], Encoder] | None = None,
    limit: TimeLimit | None = None,
) -> Extracted:
    """Tile features of the slide at ``path``, of the tissue in ``mask`` or, without one, found by colour.

    ``weights`` is the encoder's weight file; None takes its embedded weights. ``encoder`` returns the encoder with
    these weights, for callers that keep it for several slides; it is called once tissue is found. With ``limit``, tiles
    that cannot be encoded in time are left out, evenly over the tissue.

    Raises InputError for a slide or mask that cannot be used, ``error`` for an encoder that cannot, BundleError for
    ``settings`` that do not fit the encoder, and EnvironmentFailure if ``limit`` leaves too few tiles.
    """
    spec = find_spec(settings.encoder, error)
    if (spec.input_px, spec.dimension) != (settings.tile_px, settings.dimension):
        raise BundleError(
            f"{spec.name} takes tiles of {spec.input_px} px and gives {spec.dimension} features; the bundle states "
            f"{settings.tile_px} px and {settings.dimension}"
        )
    if weights is None and settings.embedded_sha256 not in (None, embedded_digest(spec.name)):
        raise BundleError(f"{spec.name}: the embedded weights are not those that the bundle was trained on (sha256)")
    with Slide(path, settings.assumed_mpp) as slide:
        stage("slide", f"{slide.size[0]} × {slide.size[1]} px at {slide.mpp[0]:.4g} µm/px from {slide.mpp_source}")
        if max(slide.mpp) > 1.05 * settings.mpp:
            warn(f"{slide.name}: {max(slide.mpp):.3g} µm/px is coarser than {settings.mpp:g}; its tiles are enlarged")
        grid = Grid.over(slide.size, slide.mpp, settings.tile_px, settings.mpp, name=slide.name)
        tissue = find_tissue(slide, grid, mask, settings.min_coverage)
        stage("tissue", f"{count(len(tissue.origins), 'tile')} kept of {tissue.tiles:,}; {tissue.found_by}")
        ready = encoder() if encoder is not None else load_encoder(settings.encoder, weights, device, error)
        features, rows, damaged = tile_features(slide, grid, tissue.origins, ready, limit)
        if damaged:
            kept = count(len(tissue.origins), "tissue tile")
            warn(f"{slide.name}: {damaged:,} of {kept} cannot be read or have no pixels, and are left out")
        finite, features = without_overflow(slide, grid, tissue.origins[rows], features, ready, limit)
        origins = tissue.origins[rows][finite]
        _check_limit(len(features), len(tissue.origins) - damaged, limit)
        precision = str(ready.precision).removeprefix("torch.")
        if not features.isfinite().all():
            tile = origins[int((~features.isfinite().all(dim=1)).nonzero()[0])]
            raise error(f"{spec.name} gives NaN or infinite features in float32, at {tile[0]}, {tile[1]} first")
        stage(
            "features",
            f"{count(len(features), 'tile')} × {spec.dimension} by {spec.name} in {precision} on {device}",
        )
    return Extracted(features, origins, grid, slide.mpp, ready.precision != torch.float32)


def _check_limit(encoded: int, tiles: int, limit: TimeLimit | None) -> None:
    """Warn if ``limit`` left out some of the ``tiles``; raises EnvironmentFailure if too few were encoded."""
    if limit is None or encoded == tiles:
        return
    used = f"time limit of {limit.seconds:g} s: {encoded:,} of {count(tiles, 'tissue tile')} encoded in time"
    if encoded < min(_FEWEST_TILES, tiles):
        raise EnvironmentFailure(f"{used}, expected at least {min(_FEWEST_TILES, tiles)}")
    warn(f"{used}, spread evenly over the tissue; the others are left out")
