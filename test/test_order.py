"""The orders in which tiles are encoded, against their definitions."""

import numpy as np
import pytest

from survfuse.slide.order import curve_order, even_order


def tissue(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of the tiles of three round pieces of tissue on a grid of 90 × 70."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:70, :90]
    inside = np.zeros(rows.shape, dtype=bool)
    for _ in range(3):
        inside |= (rows - random.uniform(0, 70)) ** 2 + (columns - random.uniform(0, 90)) ** 2 < random.uniform(
            8, 22
        ) ** 2
    kept = np.nonzero(inside)
    return kept[1].astype(np.int64), kept[0].astype(np.int64)


def morton(column: int, row: int) -> int:
    return int("".join(f"{row:032b}"[bit] + f"{column:032b}"[bit] for bit in range(32)), 2)


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_is_mortons(seed):
    columns, rows = tissue(seed)
    expected = sorted(range(len(rows)), key=lambda tile: morton(int(columns[tile]), int(rows[tile])))
    assert curve_order(columns, rows).tolist() == expected


def test_the_visits_are_a_sequence_of_least_discrepancy():
    """On a line of 2^k tiles, the definition of a (0, 1)-sequence in base 2 (Niederreiter 1992): of 2^j visits from a
    multiple of 2^j on, one is in each of the 2^j stretches of the line."""
    columns, rows = np.arange(128), np.zeros(128, dtype=np.int64)
    line = curve_order(columns, rows).tolist()
    visits = np.array([line.index(tile) for tile in even_order(columns, rows)])
    for digits in range(8):
        for start in range(0, 128, 2**digits):
            stretches = visits[start : start + 2**digits] // 2 ** (7 - digits)
            assert sorted(stretches.tolist()) == list(range(2**digits))


def test_tissue_that_repeats_itself_is_sampled_as_well_as_by_chance():
    """Every second column is of another kind: a sample at regular distances would see one kind alone."""
    rows, columns = (part.ravel() for part in np.mgrid[:64, :64])
    kind = columns[even_order(columns, rows)] % 2
    for prefix in (32, 64, 128, 256, 512, 1024):
        assert abs(kind[:prefix].mean() - 0.5) < 3.0 * 0.5 / np.sqrt(prefix)


def unevenness(order: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """For each prefix, how far a square's number of tiles lies from its share at the most; squares of 32 to 8 tiles."""
    worst = np.zeros(len(order))
    for side in (32, 16, 8):
        square = (rows // side) * 100 + columns // side
        for which in np.unique(square):
            inside = (square[order] == which).cumsum()
            share = (square == which).mean()
            worst = np.maximum(worst, np.abs(inside - share * np.arange(1, len(order) + 1)))
    return worst


@pytest.mark.parametrize("seed", range(5))
def test_every_prefix_is_an_even_sample(seed):
    columns, rows = tissue(seed)
    order = even_order(columns, rows)
    assert sorted(order.tolist()) == list(range(len(rows)))
    found = unevenness(order, columns, rows)
    # The discrepancy of such a sequence grows with the logarithm of the prefix (Niederreiter 1992, theorem 3.6: at most
    # log2(n) / 3 + 1 from the start of the line, twice that between two places; leaving out what lies past the end of
    # the line, twice again).
    assert (found <= 4.0 * (np.log2(np.arange(1, len(order) + 1)) / 3.0 + 1.0)).all()
    chance = [unevenness(np.random.default_rng(n).permutation(len(rows)), columns, rows).max() for n in range(10)]
    assert found.max() < 0.6 * min(chance)


def test_one_tile_and_two_have_an_order():
    for number in (1, 2, 3):
        zeros = np.zeros(number, dtype=np.int64)
        assert sorted(even_order(np.arange(number), zeros).tolist()) == list(range(number))
