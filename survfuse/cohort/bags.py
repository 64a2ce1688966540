"""Bags larger than memory: the tile features of a patient's slides, read from their files on demand.

``feature_file`` says how one file is read. A cohort is opened by its files' headers. If what is left to check is a few
gigabytes, everything is checked at once, so that all problems are reported together; features of a larger cohort are
checked when they are read.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from survfuse.cohort.feature_file import FeatureFile, open_features
from survfuse.cohort.problems import Problems
from survfuse.runtime.arrays import Rows
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import count, progress, stage
from survfuse.runtime.row_source import HELD, Rows2D, RowSource
from survfuse.slide.stated_tile import StatedTile

CHECKED_AT_ONCE = 8 * 10**9  # bytes; a cohort with more features to be checked is checked as it is read

_Part = Tensor | FeatureFile  # the features [N, D] of one slide, in memory or in a file
_Opened = FeatureFile | InputError  # of a slide: its features, or why they cannot be used


class Bag:
    """Tile features of one patient: those of all the patient's slides, in the order of the slides."""

    def __init__(self, parts: Sequence[_Part], encoder: str | None = None, tile: StatedTile | None = None) -> None:
        """Pool ``parts``, one a slide: a tensor [N, D] or [1, N, D] of any floating dtype, or the reference to a file.

        ``encoder`` is the tile encoder's name and ``tile`` the tile, if a file states them. Raises InputError without
        any part, and for parts that differ in D.
        """
        self._parts = [_part(part) for part in parts]
        if not self._parts:
            raise InputError("expected features of one slide at least")
        lengths = sorted({part.shape[1] for part in self._parts})
        if len(lengths) > 1:
            raise InputError(f"slides with features of different lengths: {', '.join(map(str, lengths))}")
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.encoder = encoder
        self.tile = tile

    @classmethod
    def of(cls, values: Tensor, encoder: str | None = None) -> "Bag":
        """The bag of tile features [N, D] that are in memory already."""
        return cls([values], encoder)

    @property
    def tiles(self) -> int:
        """N, the number of tiles of all slides."""
        return int(self._ends[-1])

    @property
    def slides(self) -> "list[Bag]":
        """A bag for each slide."""
        return [Bag([part], self.encoder, self.tile) for part in self._parts]

    @property
    def dimension(self) -> int:
        """D, the length of a tile's features."""
        return int(self._parts[0].shape[1])

    def rows(self, index: Rows | None = None) -> Tensor:
        """Features [len(index), D] float32 of the tiles numbered in ``index``, in that order; all [N, D] if None.

        The result must not be written to: all tiles of a single float32 slide are the mapped file itself, not a copy.
        Raises IndexError for a tile below 0 or beyond the last.

        >>> Bag([torch.zeros(2, 1), torch.ones(2, 1)]).rows(np.array([3, 0])).tolist()
        [[1.0], [0.0]]
        """
        if index is None:
            parts = [_all(part).float() for part in self._parts]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        index = np.array(index, dtype=np.int64, order="C")  # a copy: torch takes no reversed or read-only view
        if index.size and not 0 <= index.min() <= index.max() < self.tiles:
            raise IndexError(f"tile {int(index.min())} or {int(index.max())} of a bag of {self.tiles}")
        if len(self._parts) == 1:
            return _select(self._parts[0], index).float()
        features = torch.empty(len(index), self.dimension)
        part_of = np.searchsorted(self._ends, index, side="right")
        for number, part in enumerate(self._parts):
            places = np.flatnonzero(part_of == number)
            within = index[places] - (self._ends[number] - len(part))
            features[torch.from_numpy(places)] = _select(part, within).float()
        return features

    def whole(self) -> Tensor:
        """All tiles [N, D], in half precision if every slide's are stored so, else float32.

        The result must not be written to, as for ``rows``.
        """
        if not all(part.dtype.itemsize == 2 for part in self._parts):
            return self.rows()
        parts = [_all(part) for part in self._parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def warm(self) -> None:
        """Read the files once, so that the system has them in memory; nothing is kept, and nothing raised."""
        for part in self._parts:
            if isinstance(part, FeatureFile):
                part.warm()

    def features(self) -> Rows2D:
        """As ``whole``, but what is larger than a gigabyte, and would have to be copied, stays in its files."""
        dtypes = {part.dtype for part in self._parts}
        (dtype,) = dtypes if len(dtypes) == 1 and next(iter(dtypes)).itemsize == 2 else {torch.float32}
        is_mapped = len(self._parts) == 1 and dtypes == {dtype}
        if is_mapped or self.tiles * self.dimension * dtype.itemsize <= HELD:
            return self.whole()
        return _BagRows(self, dtype)

    def between(self, start: int, stop: int) -> list[Tensor]:
        """The tiles from ``start`` to before ``stop`` as they are stored, those of each slide [≤ stop − start, D]."""
        found = []
        for part, end in zip(self._parts, self._ends.tolist(), strict=True):
            first, last = (min(max(tile - (end - len(part)), 0), len(part)) for tile in (start, stop))
            if first < last:
                found.append(_select(part, np.arange(first, last)))
        return found

    def chunks(self, size: int) -> Iterator[Tensor]:
        """All tiles in order, at most ``size`` [≤ size, D] float32 at a time; no chunk spans two slides.

        A chunk must not be written to, as for ``rows``.
        """
        for part in self._parts:
            for block in _blocks(part, size):
                yield block.float()


class _BagRows(RowSource):
    """All tiles of a bag, which stay in their files."""

    def __init__(self, bag: Bag, dtype: torch.dtype) -> None:
        super().__init__(bag.tiles, bag.dimension, dtype)
        self._bag = bag

    def between(self, start: int, stop: int) -> Tensor:
        """The tiles from ``start`` to before ``stop``."""
        parts = [part.to(self.dtype) for part in self._bag.between(start, stop)]
        return torch.cat(parts) if parts else torch.empty(0, self.shape[1], dtype=self.dtype)


def _part(part: _Part) -> _Part:
    """The features [N, D] of a slide; raises InputError for a tensor of another shape or type."""
    if isinstance(part, FeatureFile):
        return part
    values = part[0] if part.ndim == 3 and part.shape[0] == 1 else part
    if values.ndim != 2 or not values.is_floating_point():
        raise InputError("expected features [N, D] or [1, N, D] of floating-point numbers")
    return values


def _all(part: _Part) -> Tensor:
    """All features [N, D] of a slide."""
    return part.all() if isinstance(part, FeatureFile) else part


def _select(part: _Part, index: Rows) -> Tensor:
    """Features [len(index), D] of a slide's tiles numbered in ``index``."""
    rows = torch.from_numpy(index)
    return part.select(rows) if isinstance(part, FeatureFile) else part.index_select(0, rows)


def _blocks(part: _Part, size: int) -> Iterator[Tensor]:
    """All features of a slide in order, at most ``size`` [≤ size, D] at a time."""
    return (
        part.blocks(size)
        if isinstance(part, FeatureFile)
        else (part[at : at + size] for at in range(0, len(part), size))
    )


def open_bag(paths: Sequence[Path], cache: Path) -> Bag:
    """One patient's bag, mapped from the feature files of the patient's slides (``.h5`` or torch), and checked.

    ``cache`` is a folder, created if absent, for copies of files that cannot be mapped and for the record of those
    already checked. Raises InputError that lists every file that cannot be used (another layout, no floating-point
    numbers, no tiles, a tile with NaN or infinite features), and slides that differ in encoder, tile or length D.
    """
    return _pooled([_checked(opened) for opened in _opened(paths, cache)])


def open_bags(slides: Mapping[str, Sequence[Path]], cache: Path, problems: Problems) -> dict[str, Bag]:
    """The bags of the patients that have ``slides``, feature files by patient; logged is whether they are checked now.

    Those that cannot be used are among the ``problems``, as ``open_bag`` has them.
    """
    opened: dict[str, list[_Opened]] = {}
    for name in progress(list(slides), len(slides), "features"):
        if slides[name]:
            opened[name] = _opened(slides[name], cache)
    files = [each for found in opened.values() for each in found if isinstance(each, FeatureFile)]
    left = [file for file in files if file.unchecked_bytes]
    size = sum(file.unchecked_bytes for file in left)
    at_once = size <= CHECKED_AT_ONCE
    if left:
        when = "now" if at_once else "when they are read"
        much = f"{count(len(left), 'slide')}, {math.ceil(size / 1e6):,} MB"
        stage("features", f"{much}, checked for NaN and infinity {when}")
    bags: dict[str, Bag] = {}
    for name in progress(list(opened), len(opened), "checking") if at_once and left else opened:
        with problems.collect(name):
            bags[name] = _pooled([_checked(each) if at_once else each for each in opened[name]])
    return bags


def _opened(paths: Sequence[Path], cache: Path) -> list[_Opened]:
    """The features in each of the files, by their headers, or why they cannot be used."""
    cache.mkdir(parents=True, exist_ok=True)
    found: list[_Opened] = []
    for path in paths:
        try:
            found.append(open_features(path, cache))
        except InputError as error:
            found.append(error)
    return found


def _checked(opened: _Opened) -> _Opened:
    """The same features once all of them are known to be finite, or why they cannot be used."""
    if isinstance(opened, FeatureFile):
        try:
            opened.check()
        except InputError as error:
            return error
    return opened


def _pooled(opened: Sequence[_Opened]) -> Bag:
    """The bag of a patient's slides; raises InputError for those that cannot be used, or not together."""
    files = [each for each in opened if isinstance(each, FeatureFile)]
    encoders: dict[str, str] = {}
    tiles: dict[StatedTile, str] = {}
    lengths: dict[int, str] = {}
    for file in files:
        name, encoder, tile = file.path.name, file.header.encoder, file.header.tile
        lengths.setdefault(file.shape[1], name)
        if encoder is not None:
            encoders.setdefault(encoder, name)
        if tile is not None and not any(map(tile.is_same, tiles)):
            tiles[tile] = name
    problems = [str(each) for each in opened if isinstance(each, InputError)]
    for first_files, what in ((lengths, "lengths"), (encoders, "encoders"), (tiles, "tiles")):
        if len(first_files) > 1:
            each = ", ".join(f"{value} in {name}" for value, name in first_files.items())
            problems.append(f"slides with features of different {what}: {each}")
    if problems:
        raise InputError("; ".join(problems))
    return Bag(files, next(iter(encoders), None), next(iter(tiles), None))
