"""How a slide becomes tile features: the part of a bundle that reading a slide needs."""

from dataclasses import dataclass

from survfuse.runtime.errors import InputError
from survfuse.runtime.files import is_number
from survfuse.runtime.log import warn
from survfuse.slide.registry import known_encoder
from survfuse.slide.stated_tile import StatedTile

# A resolution outside this range is a placeholder (72 dpi is 353 µm per pixel), not a microscope's.
PLAUSIBLE_MPP = (0.1, 5.0)  # µm per level-0 pixel; the finest that scanners give is 0.11


@dataclass(frozen=True)
class SlideSettings:
    """How a slide becomes tile features, both in training and in inference."""

    encoder: str  # name in survfuse.slide.registry.ENCODERS
    dimension: int  # D of a tile's features
    tile_px: int = 224
    mpp: float = 1.0  # µm per pixel of a tile
    min_coverage: float = 0.5  # share of a tile that the mask must cover
    assumed_mpp: float | None = None  # µm per level-0 pixel for a slide that states none
    weights: str | None = None  # file in the bundle; None: the encoder's embedded weights, if it has any
    embedded_sha256: str | None = None  # of the embedded weights

    @property
    def tile(self) -> StatedTile:
        """The tile that features are of."""
        return StatedTile(self.tile_px, self.mpp)

    def problem(self) -> str | None:
        """What is out of range, in words; None if every setting is sound.

        >>> SlideSettings("uni", 1024, mpp=0.01).problem()
        'expected a tile resolution of 0.05 to 20 µm per pixel, found 0.01'
        """
        texts = (self.encoder, self.weights or "", self.embedded_sha256 or "")
        if not all(isinstance(text, str) for text in texts):
            return "expected text as encoder, weights and embedded_sha256"
        if not all(type(whole) is int and whole > 0 for whole in (self.dimension, self.tile_px)):
            return "expected a whole dimension and tile_px above 0"
        if not _within(self.mpp, 0.05, 20.0):
            return f"expected a tile resolution of 0.05 to 20 µm per pixel, found {self.mpp}"
        if not _within(self.min_coverage, 1e-6, 1.0):
            return f"expected a least coverage above 0 and at most 1, found {self.min_coverage}"
        if self.assumed_mpp is not None and not _within(self.assumed_mpp, *PLAUSIBLE_MPP):
            low, high = PLAUSIBLE_MPP
            return f"expected an assumed resolution of {low} to {high} µm per pixel, found {self.assumed_mpp}"
        return None

    def check_features(self, length: int, encoder: str | None, name: str = "", tile: StatedTile | None = None) -> None:
        """Check that tile features [N, length], which ``name`` calls, are as these settings make them.

        ``encoder`` and ``tile`` are what their file states; None, if it states none, passes. Raises InputError for
        another length or encoder, and for tiles of another width on the slide; warns of those that differ a little.

        >>> SlideSettings("uni", 1024).check_features(1024, "uni_v1")
        >>> SlideSettings("uni", 1024).check_features(1280, None, "slide.h5")
        Traceback (most recent call last):
        survfuse.runtime.errors.InputError: slide.h5: features of length 1280, but the bundle takes length 1024 (uni)
        """
        start = f"{name}: " if name else ""
        if length != self.dimension:
            takes = f"length {self.dimension} ({self.encoder})"
            raise InputError(f"{start}features of length {length}, but the bundle takes {takes}")
        if encoder is not None and known_encoder(encoder) != known_encoder(self.encoder):
            raise InputError(f"{start}features of {encoder!r}, but the bundle takes those of {self.encoder!r}")
        own = self.tile
        if tile is None:
            return
        if not tile.is_alike(own):
            raise InputError(f"{start}features of tiles of {tile}, but the bundle takes those of {own}")
        if not tile.is_same(own):
            warn(f"{start}features of tiles of {tile}; the bundle was trained on those of {own}")


def _within(value: object, low: float, high: float) -> bool:
    return is_number(value) and low <= value <= high
