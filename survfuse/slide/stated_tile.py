"""The tile that tile features are of."""

from collections.abc import Mapping
from dataclasses import dataclass

_SAME, _ALIKE = 1.02, 1.2  # ratio of two tiles' widths up to which they are the same, and similar enough


@dataclass(frozen=True)
class StatedTile:
    """The tile that a file states its features to be of."""

    px: float | None  # wide and high; None if it is not stated
    mpp: float  # µm per pixel, or of the whole tile if its pixels are not stated

    @property
    def width(self) -> float:
        """Its side on the slide, in µm."""
        return (self.px or 1.0) * self.mpp

    def is_same(self, other: "StatedTile") -> bool:
        """Whether both are as wide on the slide, but for rounding and a scanner's own resolution.

        >>> StatedTile(448, 0.5).is_same(StatedTile(224, 1.0)), StatedTile(256, 1.0).is_same(StatedTile(224, 1.0))
        (True, False)
        """
        return self._is_within(_SAME, other)

    def is_alike(self, other: "StatedTile") -> bool:
        """Whether features of one can stand for those of the other."""
        return self._is_within(_ALIKE, other)

    def _is_within(self, ratio: float, other: "StatedTile") -> bool:
        narrow, wide = sorted((self.width, other.width))
        return wide <= ratio * narrow

    def __str__(self) -> str:
        pixels = f" ({self.px:.4g} px of {self.mpp:.4g} µm)" if self.px else ""
        return f"{self.width:.4g} µm{pixels}"


def merged(tiles: Mapping[str, StatedTile]) -> dict[str, StatedTile]:
    """``tiles`` by name, each replaced by the first one that is the same."""
    kept: list[StatedTile] = []
    found = {}
    for name, tile in tiles.items():
        found[name] = next((other for other in kept if other.is_same(tile)), tile)
        if found[name] is tile:
            kept.append(tile)
    return found
