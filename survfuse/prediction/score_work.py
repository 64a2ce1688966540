"""What a worker does with a block of cases: their predictions."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from survfuse.bundle.load import Bundle, load
from survfuse.prediction.many import read_inputs, without_tiles
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Predictor
from survfuse.prediction.side_by_side import cases_together, scored
from survfuse.prediction.sources import Cases, UnusableCase
from survfuse.runtime.errors import InputError
from survfuse.runtime.log import progress, recorded
from survfuse.workers.executor import Executor, each_result
from survfuse.workers.settings import Cluster
from survfuse.workers.shard import Shard
from survfuse.workers.shared_folder import check_seen

if TYPE_CHECKING:
    import torch

Outcome = Prediction | UnusableCase


@dataclass(frozen=True)
class ScoreWork:
    """Predicts the cases at some places of ``cases`` with the bundle at ``model``.

    ``modalities`` and ``omit_unusable_slide`` are as in ``predicted``.
    """

    model: Path
    cases: Cases
    modalities: Sequence[str] | None
    omit_unusable_slide: bool

    def start(self, device: "torch.device") -> Callable[[Sequence[int], int], list[Outcome]]:
        """Load the bundle and its networks."""
        check_seen(self.model)
        with recorded(show=False):
            predictor = Predictor(load(self.model), str(device))
        _ = predictor.ensemble
        return partial(self._predicted, predictor)

    def _predicted(self, predictor: Predictor, places: Sequence[int], _: int) -> list[Outcome]:
        """What becomes of the cases of a block."""
        inputs = read_inputs(predictor, self.cases.part(places), self.modalities, self.omit_unusable_slide)
        return [_sent(without_tiles(outcome)) for outcome in scored(predictor, inputs, len(self.cases.names))]


def blocks(cases: Cases, shard: Shard | None, on_gpu: bool) -> list[range]:
    """The places of the cases, or of a shard of them, in the blocks that are scored together.

    A shard takes whole blocks as a CPU scores them, on any device, so that all shards divide the cases in the same way
    and its predictions are the same as without shards.
    """
    number = len(cases.names)
    size = cases_together(number, on_gpu=False)
    every = [range(start, min(start + size, number)) for start in range(0, number, size)]
    own = [block for block in every if shard is None or shard.holds(cases.names[block[0]])]
    return [range(place, place + 1) for block in own for place in block] if on_gpu else own


def check_several(cluster: Cluster | None, shard: Shard | None) -> None:
    """Raise InputError for a cluster or a shard of one case."""
    if cluster is not None or shard is not None:
        raise InputError("a cluster or a shard is for several cases, found one case")


def scored_elsewhere(
    executor: Executor, work: ScoreWork, places: Sequence[Sequence[int]], bundle: Bundle
) -> list[Outcome]:
    """What becomes of the cases at ``places``, block by block, in their order; raises what ended a block."""
    found: dict[int, list[Outcome]] = {}
    with closing(each_result(executor, work, places)) as outcomes:
        for block, own in progress(outcomes, sum(map(len, places)), "scoring", _size):
            found[block[0]] = own
    return [_received(outcome, bundle) for block in places for outcome in found[block[0]]]


def _size(ended: tuple[Sequence[int], list[Outcome]]) -> int:
    return len(ended[0])


def _sent(outcome: Outcome) -> Outcome:
    """An outcome as it is sent: without its curve, which is the bundle's."""
    return outcome if isinstance(outcome, UnusableCase) else replace(outcome, curve=None)


def _received(outcome: Outcome, bundle: Bundle) -> Outcome:
    """An outcome with the bundle's curve again."""
    if isinstance(outcome, UnusableCase) or bundle.curves is None:
        return outcome
    return replace(outcome, curve=bundle.curves[outcome.combination])
