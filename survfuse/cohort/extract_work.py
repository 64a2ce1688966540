"""What a worker does with one slide of a cohort: tile features, and a picture if one is asked for.

Only a worker imports torch: the command that has workers, and perhaps a hundred thousand slides, has no use for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.cohort.extracted_file import features_path, write_extracted
from survfuse.cohort.slide_list import CohortSlide
from survfuse.runtime.errors import InputError
from survfuse.runtime.files import discard
from survfuse.runtime.log import stage, warn
from survfuse.slide.parts import slide_file
from survfuse.slide.preview import write_preview
from survfuse.slide.settings import SlideSettings
from survfuse.slide.suffixes import FEATURE_SUFFIXES
from survfuse.workers.shared_folder import SharedFolder, check_seen

if TYPE_CHECKING:
    import torch

    from survfuse.slide.encoders import Encoder


@dataclass(frozen=True, slots=True)
class Numbered:
    """A slide and its place among those to be extracted, from 1."""

    slide: CohortSlide
    number: int


@dataclass(frozen=True)
class ExtractWork:
    """Writes the features of one slide after the other to ``folder``; gives the number of tiles of each.

    ``weights`` is the encoder's weight file and ``digest`` its checksum, ``previews`` a folder for pictures; ``shared``
    shows whether a worker sees that folder, and is None for workers on this machine.
    """

    folder: Path
    settings: SlideSettings
    weights: Path | None
    digest: str | None
    previews: Path | None
    total: int
    shared: SharedFolder | None = None

    def start(self, device: "torch.device") -> Callable[[Numbered, int], int]:
        """Load the encoder; raises InputError for weights that do not fit it."""
        from survfuse.slide.encoders import load_encoder

        if self.shared is not None:
            self.shared.check(*filter(None, (self.weights, self.previews)))
        return partial(self._extract, load_encoder(self.settings.encoder, self.weights, device))

    def _extract(self, encoder: "Encoder", numbered: Numbered, lacked: int) -> int:
        from survfuse.slide.extract import extract

        slide = numbered.slide
        path = features_path(self.folder, slide)
        stage("slide", f"{numbered.number:,} of {self.total:,}: {slide.path.name}")
        if self.shared is not None:
            check_seen(*filter(None, (slide.path, slide.mask)))
        if lacked:
            discard(path)  # what the worker that died was writing
            encoder = encoder.in_smaller_batches(lacked)
        opened = slide_file(slide.path)
        extracted = extract(
            opened, slide.mask, self.settings, self.weights, encoder.device, InputError, lambda: encoder
        )
        write_extracted(path, slide.path.stem, self.settings, extracted, self.digest, slide.mask)
        if self.previews is not None:
            write_preview(preview_path(self.previews, slide), opened, slide.mask, self.settings, extracted.origins)
        for other in (path.with_suffix(suffix) for suffix in FEATURE_SUFFIXES):
            if other != path and other.exists():
                warn(f"{other.name} lies next to {path.name}; a cohort takes one file per slide")
        return len(extracted.features)


def preview_path(previews: Path, slide: CohortSlide) -> Path:
    """Where the picture of ``slide`` is written below ``previews``."""
    return previews / f"{slide.path.stem}.jpg"
