"""A case's inputs as networks take them: expression [G], clinical and slide-level vectors [C], [V], features [N, D]."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.bundle.load import Bundle
from survfuse.inputs.case import Case
from survfuse.runtime.clock import TimeLimit
from survfuse.runtime.errors import BundleError
from survfuse.runtime.log import count, stage, warn
from survfuse.runtime.suggestions import check_is_file
from survfuse.tasks.task import VECTOR

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from survfuse.inputs.expression import RnaVector
    from survfuse.inputs.features import Features
    from survfuse.runtime.row_source import Rows2D
    from survfuse.slide.encoders import Encoder
    from survfuse.slide.extract import Extracted
    from survfuse.slide.tile_places import TilePlaces


def expression_vector(case: Case, bundle: Bundle) -> "RnaVector | None":
    """The case's expression; None if it has none, or if the bundle does not use it."""
    if bundle.expression is None:
        stage("expression", "not used by this bundle")
        return None
    values = case.values("rna")
    if not values:
        stage("expression", "none given" if values is None else "none given: the object is empty")
        return None
    encoded = bundle.expression.encode(values)
    stage("expression", *encoded.notes)
    for warning in encoded.warnings:
        warn(warning)
    return encoded


def clinical_vector(case: Case, bundle: Bundle) -> "NDArray[np.float32] | None":
    """The case's clinical vector [C]; None if no variable is known, or if the bundle does not use any."""
    if bundle.vocabulary is None:
        stage("clinical", "not used by this bundle")
        return None
    variables = case.values("clinical")
    if variables is None:
        stage("clinical", "none given")
        return None
    encoded = bundle.vocabulary.encode(variables)
    if not encoded.known:
        stage("clinical", f"no variable is known among {count(len(variables), 'key')}")
        return None
    stage("clinical", *encoded.notes)
    return encoded.values


def slide_vector(case: Case, bundle: Bundle) -> "NDArray[np.float32] | None":
    """The case's slide-level vector [V]; None if it has none, or if the bundle does not use any.

    Raises InputError for one that cannot be read, or is of another length or encoder than the bundle's.
    """
    settings = bundle.manifest.vector if VECTOR in bundle.modalities else None
    if case.vector is None or settings is None:
        if settings is not None or case.vector is not None:
            stage("vector", "none given" if case.vector is None else "not used by this bundle")
        return None
    from survfuse.inputs.slide_vectors import vector_of

    if isinstance(case.vector, Path):
        check_is_file(case.vector)
    vector = vector_of(case.vector, case.name)
    settings.check(len(vector.values), vector.encoder, vector.name)
    assumed = "" if vector.encoder or settings.encoder is None else ", by assumption"
    stage("vector", f"slide-level, {settings}{assumed}")
    return vector.values


@dataclass(frozen=True)
class SlideTiles:
    """A slide as networks take it."""

    features: "Rows2D"  # [N, D]
    half: bool  # whether they are of half precision
    coordinates: "NDArray[np.int64] | None"  # [N, 2], level-0 pixels
    places: "TilePlaces | None" = None  # if they come from a slide


def read_slide(
    case: Case, bundle: Bundle, device: "torch.device", limit: TimeLimit | None, encoder: "Callable[[], Encoder]"
) -> "Features | Extracted":
    """The case's tile features as given, or extracted from its slide.

    ``encoder`` loads the bundle's encoder, or returns the one kept from the previous slide. Raises InputError for a
    slide, mask or features that cannot be read, BundleError for an encoder that cannot be used, and EnvironmentFailure
    if ``limit`` leaves too few tiles.
    """
    for source in (case.slide, case.mask, case.features):
        if isinstance(source, Path) and not (source is case.slide and source.is_dir()):
            check_is_file(source)
    if case.features is not None:
        from survfuse.inputs.features import features_of

        return features_of(case.features, case.name)
    assert case.slide is not None
    from survfuse.slide.extract import extract
    from survfuse.slide.parts import slide_file

    slide, settings, weights = slide_file(case.slide), bundle.manifest.slide, bundle.encoder_weights()
    return extract(slide, case.mask, settings, weights, device, BundleError, encoder=encoder, limit=limit)


def as_tiles(slide: "Features | Extracted", bundle: Bundle) -> SlideTiles:
    """A slide's features as networks take them; raises InputError if their encoder is not the bundle's."""
    from survfuse.inputs.features import Features

    if not isinstance(slide, Features):
        return SlideTiles(slide.features, slide.half, slide.origins, slide.places)
    settings = bundle.manifest.slide
    settings.check_features(slide.values.shape[1], slide.encoder, slide.name, slide.tile)
    named_by = f"from {slide.encoder}" if slide.encoder else f"assumed to be from {settings.encoder}"
    tiles = f"{count(len(slide.values), 'tile')} × {settings.dimension}"
    size = f"of tiles of {slide.tile}" if slide.tile is not None else "tile size not stated"
    stage("features", f"{tiles}, {named_by}, {size}", *slide.notes)
    return SlideTiles(slide.values, slide.half, slide.coordinates)
