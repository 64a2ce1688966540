"""Cohorts and cases that memory does not hold: read in parts, once, and ahead, with the same bits as the plain way."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from conftest import FEATURES, end_of, give_slide, months

from survfuse.cohort import bags as bags_module
from survfuse.cohort.bags import Bag, open_bag
from survfuse.cohort.bags_ahead import read_ahead
from survfuse.inputs.features import features_of, read_features
from survfuse.networks.build import build
from survfuse.networks.cox import cluster_shares
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime import row_source
from survfuse.runtime.errors import EnvironmentFailure, InputError
from survfuse.runtime.row_source import RowSource
from survfuse.training import tile_batches
from survfuse.training.averages import average_slides
from survfuse.training.folds import nested_splits
from survfuse.training.member_risks import network_risks, slide_vectors
from survfuse.training.tile_clusters import TileClusters, fit_centres, in_one_pass
from survfuse.training.tile_sampler import TileSampler

FAMILIES = families_of(("slide",))
CPU = torch.device("cpu")
PATIENTS, LENGTH, CLUSTERS = 24, 6, 4


class Watched(Bag):
    """A bag that notes when its tiles are read, and when its files are read ahead."""

    def __init__(self, number: int, tiles: torch.Tensor, seen: list[int], warmed: list[int]) -> None:
        super().__init__([tiles])
        self.number, self.seen, self.warmed = number, seen, warmed

    def rows(self, index=None):
        self.seen.append(self.number)
        return super().rows(index)

    def chunks(self, size):
        self.seen.append(self.number)
        return super().chunks(size)

    def warm(self):
        self.warmed.append(self.number)


@pytest.fixture
def drawn(monkeypatch):
    """Bags of which some make up a batch and some are larger than one, and splits of two folds."""
    monkeypatch.setattr(tile_batches, "_TILES_AT_ONCE", 100)
    random = np.random.default_rng(0)
    seen: list[int] = []
    warmed: list[int] = []
    lengths = random.choice([3, 20, 45, 130], PATIENTS)
    bags = [
        Watched(number, torch.from_numpy(random.standard_normal((length, LENGTH))).float(), seen, warmed)
        for number, length in enumerate(lengths)
    ]
    splits = nested_splits(random.exponential(30.0, PATIENTS), np.arange(PATIENTS) % 4 > 0, 2, 3, 1, seed=0)
    return bags, splits, seen, warmed


def test_slides_are_read_once_for_the_linear_models_of_all_folds(drawn):
    bags, splits, seen, warmed = drawn
    folds = [[split for split in splits if split.fold == fold] for fold in range(2)]
    centres = [fit_centres(bags, np.union1d(own[0].fitted, own[0].inner), CLUSTERS, 5) for own in folds]
    assert not torch.equal(*centres)
    seen.clear()
    together = in_one_pass(bags, centres, folds, CPU)
    order = [number for place, number in enumerate(seen) if place == 0 or seen[place - 1] != number]
    assert warmed == list(range(PATIENTS)) and len(order) < 2 * PATIENTS  # visits to a bag lie together
    for fold, (found, own) in enumerate(zip(together, centres, strict=True)):
        alone = TileClusters.fit(bags, np.union1d(folds[fold][0].fitted, folds[fold][0].inner), CLUSTERS, 5)
        assert torch.equal(found.centres, own) and torch.equal(found.shares, alone.shares)
        for bag, shares in zip(bags, found.shares, strict=True):
            assert torch.equal(shares, cluster_shares(bag.rows()[None], None, own)[0][0] * bag.tiles / bag.tiles)
        network = build(FAMILIES["cox-slide"], Sizes(tile=LENGTH, clusters=CLUSTERS))
        network.load_state_dict({"centres": own}, strict=False)
        torch.nn.init.normal_(network.risk.weight)
        for split in folds[fold]:
            rows = split.scored.tolist()
            plain = network_risks(network, bags, {}, [("slide",)], rows, CPU)[("slide",)]
            known = network_risks(network, None, {}, [("slide",)], rows, CPU, found.scored[split.name])[("slide",)]
            assert torch.equal(plain, known)


def test_networks_that_score_the_same_patients_read_them_together(drawn):
    bags, splits, seen, _ = drawn
    torch.manual_seed(0)
    networks = [build(FAMILIES["slide"], Sizes(tile=LENGTH, bag=5, attention=3)) for _ in splits]
    rows = [split.scored.tolist() for split in splits]
    vectors = slide_vectors(networks, bags, rows, CPU)
    alone = [number for number in seen if bags[number].tiles > 100]  # in batches of their own
    assert alone == sorted(alone) and len(set(alone)) < len(alone)
    for network, own, found in zip(networks, rows, vectors, strict=True):
        batched = [tile_batches.padded(bags, batch, CPU) for batch in tile_batches.batches(bags, own)]
        with torch.inference_mode():
            plain = [network.eval().encode(tiles, None, None, present)[0]["slide"] for tiles, present in batched]
        assert torch.equal(found, torch.cat(plain))
        risks = network_risks(network, bags, {}, [("slide",)], own, CPU)
        again = network_risks(network, bags, {}, [("slide",)], own, CPU, found)
        assert torch.equal(risks[("slide",)], again[("slide",)])


def test_the_average_patient_of_many_members_is_that_of_each(drawn):
    bags, _, seen, _ = drawn
    torch.manual_seed(0)
    sizes = Sizes(tile=LENGTH, bag=5, attention=3, clusters=CLUSTERS)
    networks = [build(FAMILIES[name], sizes) for name in ("slide", "cox-slide", "slide")]
    networks[1].load_state_dict({"centres": torch.randn(CLUSTERS, LENGTH)}, strict=False)
    means = average_slides([network.pooling(CPU) for network in networks], bags, CPU)
    assert seen == list(range(PATIENTS))
    for network, mean in zip(networks, means, strict=True):
        total = torch.zeros((), dtype=torch.float64)
        with torch.inference_mode():
            for bag in bags:
                pool = network.pool(bag.tiles, CPU)
                pool.add(bag.rows())
                total = total + pool.result()[0][0].double()
        assert torch.equal(mean, total / PATIENTS)


@pytest.mark.parametrize("tiles", [10, 200])
def test_tiles_drawn_ahead_are_those_of_each_epoch(drawn, tiles):
    bags, *_ = drawn
    one, other = (TileSampler(bags, tiles, 3, CPU) for _ in range(2))
    ahead = list(one.epochs(4))
    assert len(ahead) == 4
    for epoch, (drawn_tiles, present) in enumerate(ahead, start=1):
        plain = other(epoch)
        assert torch.equal(drawn_tiles, plain[0]) and torch.equal(present, plain[1])
    left = one.epochs(4)
    next(left)
    left.close()  # a training that stops early leaves no thread behind


def test_what_cannot_be_read_ahead_is_reported_where_it_is_used(tmp_path):
    paths = [tmp_path / f"{number}.pt" for number in range(3)]
    for number, path in enumerate(paths):
        torch.save(torch.full((4, 2), float(number)), path)
    bags = [open_bag([path], tmp_path / "cache") for path in paths]
    for bag in bags:
        bag._parts[0]._mapped = None
    paths[1].unlink()
    found = []
    for bag in read_ahead((bag, [bag]) for bag in bags):
        if bag is bags[1]:
            with pytest.raises(EnvironmentFailure, match=r"1\.pt: cannot be read"):
                bag.rows()
        else:
            found.append(float(bag.rows()[0, 0]))
    assert found == [0.0, 2.0]


# Cases that are larger than what is held


def _h5(path: Path, values: np.ndarray, **how) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values, **how)
    return path


@pytest.mark.parametrize(
    "how",
    [{}, {"dtype": "f2"}, {"dtype": "f8"}, {"chunks": (700, 3)}, {"chunks": (1, 6), "dtype": "f2"}, {"axes": 3}],
)
def test_large_features_of_a_file_are_read_in_parts(tmp_path, monkeypatch, how):
    values = np.random.default_rng(0).standard_normal((5000, LENGTH))
    values = values[None] if how.pop("axes", 2) == 3 else values
    path = _h5(tmp_path / "a.h5", values, **how)
    whole = read_features(path)
    monkeypatch.setattr(row_source, "HELD", 1000)
    stored = read_features(path)
    assert isinstance(stored.values, RowSource) and not isinstance(whole.values, RowSource)
    _same(stored.values, whole.values)
    assert (stored.half, stored.notes, stored.values.nbytes) == (whole.half, whole.notes, 0)


@pytest.mark.parametrize("values", [torch.randn(5000, 6).double(), torch.randn(6, 5000).T])
def test_large_features_of_a_torch_file_are_converted_in_parts(tmp_path, monkeypatch, values):
    torch.save(values, tmp_path / "a.pt")
    monkeypatch.setattr(row_source, "HELD", 1000)
    stored = read_features(tmp_path / "a.pt").values
    assert isinstance(stored, RowSource)
    _same(stored, values.float())


def _same(stored: RowSource, whole: torch.Tensor) -> None:
    assert (len(stored), *stored.shape, stored.dtype) == (*whole.shape[:1], *whole.shape, whole.dtype)
    assert stored.element_size() == whole.element_size()
    for start, stop in ((0, 5000), (0, 10), (1500, 2600), (4990, 6000), (2047, 2049)):
        assert torch.equal(stored[start:stop], whole[start:stop])
    index = torch.tensor([4999, 0, 2048, 2047])
    assert torch.equal(stored[index], whole[index]) and len(stored[7:7]) == 0
    with pytest.raises(IndexError):
        stored[::2]


def test_what_is_not_finite_is_found_in_parts(tmp_path, monkeypatch):
    values = np.zeros((5000, LENGTH))
    values[4321, 2] = np.inf
    monkeypatch.setattr(row_source, "HELD", 1000)
    with pytest.raises(InputError, match=r"^a\.h5: features of tile 4321 are NaN or infinite$"):
        read_features(_h5(tmp_path / "a.h5", values))


@pytest.mark.parametrize("dtypes", [["f4", "f4"], ["f2", "f2", "f2"], ["f2", "f4"], ["f8"], ["f8", "f2"]])
def test_large_slides_of_one_patient_stay_in_their_files(tmp_path, monkeypatch, dtypes):
    random = np.random.default_rng(0)
    paths = [
        _h5(tmp_path / f"{number}.h5", random.standard_normal((5000 // len(dtypes), LENGTH)), dtype=dtype)
        for number, dtype in enumerate(dtypes)
    ]
    bag = open_bag(paths, tmp_path / "cache")
    whole = bag.whole()
    assert torch.equal(bag.features(), whole)
    monkeypatch.setattr(bags_module, "HELD", 1000)
    stored = bag.features()
    assert isinstance(stored, RowSource)
    assert torch.equal(stored[:], whole) and stored.dtype == whole.dtype
    assert torch.equal(stored[1600:3400], whole[1600:3400])
    checked = features_of(stored, "case")
    assert checked.values is stored and checked.half == (whole.element_size() == 2)
    alone = open_bag(paths[:1], tmp_path / "cache")
    assert isinstance(alone.features(), RowSource) == (dtypes[0] == "f8")  # others are mapped as they are


def test_a_large_case_has_the_same_months(case, tmp_path, monkeypatch):
    give_slide(case, FEATURES.name, FEATURES.read_bytes())
    assert end_of(case, tmp_path / "held") == 0
    monkeypatch.setattr(row_source, "HELD", 1000)
    assert end_of(case, tmp_path / "in parts") == 0
    assert months(tmp_path / "held") == months(tmp_path / "in parts")
