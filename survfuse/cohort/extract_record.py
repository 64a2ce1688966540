"""What became of each slide of an extraction, while it runs and as the file that it leaves."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from survfuse.runtime.files import write_json
from survfuse.runtime.log import count
from survfuse.workers.shard import Shard

SCHEMA = "survfuse-extraction-1"
EXTRACTED, ALREADY, FAILED, NOT_REACHED = "extracted", "already extracted", "failed", "not reached"
_MINUTE, _HOUR = 60.0, 3600.0


@dataclass(frozen=True, slots=True)
class SlideRecord:
    """What became of one slide. ``seconds`` are those of the last of its attempts."""

    slide: str
    state: str
    tiles: int | None = None
    node: str | None = None
    seconds: float | None = None
    attempts: int = 0
    reason: str | None = None


def record_path(root: Path, shard: Shard | None) -> Path:
    """Where the record of an extraction to ``root``, or of a shard of one, is written."""
    return root / ("extract.json" if shard is None else f"extract-{shard.number}-of-{shard.of}.json")


def write_record(path: Path, records: Sequence[SlideRecord]) -> None:
    """Write what became of every slide, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"schema": SCHEMA, "slides": [asdict(record) for record in records]})


class Tally:
    """How an extraction of ``total`` slides stands."""

    def __init__(self, total: int) -> None:
        self._total, self._started = total, time.monotonic()
        self._done = self._tiles = self._failed = 0

    def add(self, record: SlideRecord) -> None:
        """Count a slide that has ended."""
        self._done += 1
        self._tiles += record.tiles or 0
        self._failed += record.state == FAILED

    def line(self) -> str:
        """Tiles per second, the time left and the slides that failed, in words."""
        passed = max(time.monotonic() - self._started, 1e-9)
        left = passed * (self._total - self._done) / max(self._done, 1)
        said = [f"{self._tiles / passed:,.1f} tiles/s", f"{_duration(left)} left"]
        return ", ".join([*said, f"{count(self._failed, 'slide')} failed"] if self._failed else said)


def _duration(seconds: float) -> str:
    """A time to wait, roughly.

    >>> _duration(42.0), _duration(600.0), _duration(8000.0)
    ('42 s', '10 min', '2 h 13 min')
    """
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    hours, rest = divmod(seconds, _HOUR)
    minutes = f"{rest // _MINUTE:.0f} min"
    return f"{hours:.0f} h {minutes}" if hours else minutes
