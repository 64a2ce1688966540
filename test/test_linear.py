"""Cox's linear families against scikit-survival, fitted and judged with the covariates written out."""

import numpy as np
import pytest
import torch
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv
from test_stacking import efron

from survfuse.cohort.bags import Bag
from survfuse.networks.build import build
from survfuse.networks.families import families_of
from survfuse.networks.sizes import Sizes
from survfuse.runtime.errors import InputError
from survfuse.training.fit_cox import PENALTIES, RATIOS, fit_cox
from survfuse.training.fit_networks import inner_sizes
from survfuse.training.folds import nested_splits
from survfuse.training.member import Prepared
from survfuse.training.tile_clusters import TileClusters

PATIENTS, COMPONENTS, VARIABLES = 90, 4, 3
FAMILIES = families_of(("slide", "rna", "clinical"))


def bag_of(random: np.random.Generator, tiles: int, share: float) -> Bag:
    """Tiles around two places, about ``share`` of them around the second."""
    return Bag.of(
        torch.from_numpy(random.standard_normal((tiles, 2)) + [6.0, 0.0] * (random.random((tiles, 1)) < share)).float()
    )


class Drawn:
    """Patients whose hazard follows their inputs, and the members of one fold."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.rna = random.standard_normal((PATIENTS, COMPONENTS)) * [3.0, 2.0, 1.0, 0.5] + 1.0
        self.clinical = np.concatenate(
            [random.standard_normal((PATIENTS, 1)), random.random((PATIENTS, VARIABLES - 1)) < 0.4], axis=1
        )
        self.bags = [bag_of(random, 12, share) for share in random.random(PATIENTS)]
        hazard = 0.5 * self.rna[:, 0] / 3.0 + 0.6 * self.clinical[:, 0]
        self.times = np.ceil(40.0 * random.exponential(np.exp(-hazard)))
        self.events = random.random(PATIENTS) < 0.7
        splits = [s for s in nested_splits(self.times, self.events, 3, 3, 1, seed) if s.fold == 1]
        rna, clinical = (torch.from_numpy(values).float() for values in (self.rna, self.clinical))
        self.members = [Prepared(split, 0, {"rna": rna, "clinical": clinical}) for split in splits]
        training = np.union1d(splits[0].fitted, splits[0].inner)
        self.clusters = TileClusters.fit(self.bags, training, 3, seed)


def written_out(drawn: Drawn, family: str, rows: np.ndarray, ratio: float) -> dict[str, np.ndarray]:
    """Covariates [n, F] of each modality, centred and scaled by the patients at ``rows`` alone."""
    rna, clinical = drawn.rna.astype(np.float32).astype(float), drawn.clinical.astype(np.float32).astype(float)
    shares = drawn.clusters.shares.double().numpy()
    blocks = {
        "slide": shares / np.maximum(shares[rows].std(axis=0), 0.01) * ratio,
        "rna": rna / rna[rows].std(axis=0).max() * ratio,
        "clinical": clinical,
    }
    return {name: blocks[name] - blocks[name][rows].mean(axis=0) for name in FAMILIES[family].modalities}


@pytest.mark.parametrize("family", ["cox-rna+clinical", "cox", "cox-slide", "clinical"])
def test_penalties_are_those_that_predict_the_inner_patients_best_together(family):
    """Every penalty and ratio by scikit-survival's own fit; losses of the inner patients written out."""
    drawn = Drawn(1)
    members = fit_cox(FAMILIES[family], drawn.members, drawn.clusters, drawn.times, drawn.events)
    ratios = RATIOS if family in ("cox", "cox-rna+clinical") else (1.0,)
    steps, together = [], []
    for ratio in ratios:
        for alpha in PENALTIES:
            losses, fits = [], []
            for member in drawn.members:
                rows, inner = member.split.fitted, member.split.inner
                blocks = written_out(drawn, family, rows, ratio)
                values = np.concatenate(list(blocks.values()), axis=1)
                outcome = Surv.from_arrays(drawn.events[rows], drawn.times[rows])
                weight = CoxPHSurvivalAnalysis(alpha=alpha, ties="efron").fit(values[rows], outcome).coef_
                losses.append(efron(values[inner] @ weight, drawn.times[inner], drawn.events[inner]))
                fits.append((blocks, weight))
            steps.append((alpha, losses, fits))
            happened = [drawn.events[member.split.inner].sum() for member in drawn.members]
            together.append(float(np.dot(losses, happened)))
    best = int(np.argmin(together))
    assert best > 0  # not the first, nor by default
    assert {fitted.penalty for fitted in members} == {steps[best][0]}
    sizes = inner_sizes(Sizes(tile=2, genes=COMPONENTS, clinical=VARIABLES, clusters=3))
    tiles = torch.stack([bag.rows(None) for bag in drawn.bags])
    for place, (member, fitted) in enumerate(zip(drawn.members, members, strict=True)):
        assert fitted.inner == pytest.approx([losses[place] for _, losses, _ in steps], abs=1e-5)
        network = build(FAMILIES[family], sizes).eval()
        network.load_state_dict(fitted.state)
        blocks, weight = steps[best][2][place]
        given = {"slide": tiles, **member.inputs}
        for combination, by_step in fitted.risks_by_step.items():
            # What a modality that is missing adds is nothing: it stands at its mean.
            parts = [block * (name in combination) for name, block in blocks.items()]
            expected = np.concatenate(parts, axis=1) @ weight
            case = [value if name in combination else None for name, value in given.items()]
            with torch.no_grad():
                assert network(*case).risk.numpy() == pytest.approx(expected, abs=2e-4), combination
            assert by_step.shape == (len(steps), len(member.split.inner))
            assert by_step[best].numpy() == pytest.approx(expected[member.split.inner], abs=1e-5), combination


def test_a_cluster_that_hardly_anybody_has_is_not_blown_up():
    """Tiles of a kind that two of the fitted patients have one of: a new patient full of them keeps a risk in range."""
    drawn = Drawn(2)
    random = np.random.default_rng(0)
    rare = np.zeros(PATIENTS, dtype=bool)
    rare[drawn.members[0].split.fitted[:3]] = True
    bags = []
    for few in rare:
        tiles = bag_of(random, 400, random.random()).rows(None).clone()
        if few:
            tiles[0] = torch.tensor([0.0, 500.0])
        bags.append(Bag.of(tiles))
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 500.0]])
    clusters = TileClusters(centres, torch.stack([_shares(bag, centres) for bag in bags]))
    family = FAMILIES["cox-slide"]
    members = fit_cox(family, drawn.members, clusters, drawn.times, drawn.events)
    sizes = inner_sizes(Sizes(tile=2, clusters=3))
    for fitted in members:
        network = build(family, sizes).eval()
        network.load_state_dict(fitted.state)
        with torch.no_grad():
            common = torch.cat([network(bag.rows(None)[None], None, None).risk for bag in bags])
            odd = network(torch.tensor([[0.0, 500.0]]).expand(1, 50, 2), None, None).risk
        assert abs(float(odd - common.mean())) < 20.0 * float(common.std()) + 1.0


def _shares(bag: Bag, centres: torch.Tensor) -> torch.Tensor:
    nearest = torch.cdist(bag.rows(None), centres).argmin(dim=1)
    return torch.bincount(nearest, minlength=len(centres)) / bag.tiles


def test_a_fold_without_a_finite_solution_is_named(monkeypatch):
    drawn = Drawn(3)
    monkeypatch.setattr("survfuse.training.fit_cox._ridge_cox", lambda *_: None)
    with pytest.raises(InputError, match="cox-rna: no penalty up to 1000 gives a finite solution"):
        fit_cox(FAMILIES["cox-rna"], drawn.members, None, drawn.times, drawn.events)
