"""From a cohort to a frozen bundle: loss, fit, cross-validation, reference risks.

Every member sees one fold's training patients only. Its held-out patients take no part in its standardisation,
imputation, weights, stopping epoch, location or scale, so the reference risks that calibration ranks against are
those of patients unseen in every way.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor

from survfuse.bundle import DEMONSTRATION, RESEARCH, Manifest, MemberEntry, save
from survfuse.calibration import CONTINUOUS, Calibration
from survfuse.clinical import Vocabulary, fit_vocabulary
from survfuse.cohort import Cohort
from survfuse.errors import InputError
from survfuse.fusion import MODALITIES, BilinearFusion, Fused, Sizes, build
from survfuse.log import count, stage
from survfuse.metrics import concordance
from survfuse.rna import LOG_STANDARDISE, Expression
from survfuse.slide.encoders import embedded_digest, load_encoder
from survfuse.slide.settings import SlideSettings

NOTICES = {
    DEMONSTRATION: "Trained on simulated patients: the months it predicts mean nothing clinically.",
    RESEARCH: "For research use. Not a medical device.",
}


@dataclass(frozen=True)
class Protocol:
    """How members are trained. Defaults suit a cohort of a few hundred patients."""

    folds: int = 5
    seeds: int = 2  # members per fold
    seed: int = 0
    epochs: int = 300  # most
    patience: int = 30  # epochs without a better inner validation loss
    inner: float = 0.2  # share of a fold's training patients that decides when to stop
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    family: str = "bilinear"
    transform: str = LOG_STANDARDISE  # of expression
    calibration: str = CONTINUOUS

    def __post_init__(self) -> None:
        if self.folds < 2 or min(self.seeds, self.epochs, self.patience) < 1 or not 0.0 < self.inner < 1.0:
            raise InputError("expected at least 2 folds, 1 seed, 1 epoch and 1 epoch of patience")
        if not 0 <= self.seed < 2**32:
            raise InputError("expected a seed of at least 0 and below 2^32")
        if self.learning_rate <= 0.0 or self.weight_decay < 0.0:
            raise InputError("expected a learning rate above 0 and a weight decay of at least 0")


@dataclass(frozen=True)
class FoldTransform:
    """Inputs standardised by the whole cohort → standardised by one fold's training patients alone.

    Both maps are affine, so they can be absorbed into the first layers they feed: the frozen member then takes
    the bundle's inputs and equals the member that was trained on its fold's. One thing differs: a gene that a patient
    lacks was at the fold's mean in training, and is at the cohort's in the bundle.
    """

    rna_factor: NDArray[np.float64]  # [G]
    rna_offset: NDArray[np.float64]  # [G]
    clinical_matrix: NDArray[np.float64]  # [C, C]
    clinical_offset: NDArray[np.float64]  # [C]

    @classmethod
    def fit(cls, rna: NDArray[np.float64], clinical: NDArray[np.float64], vocabulary: Vocabulary) -> "FoldTransform":
        """From the training patients' vectors: rna [n, G], NaN where absent, and clinical [n, C].

        Genes and numbers in which fewer than two patients, or one in fifty, differ from the others get no weight: a
        scale learnt from so few would blow up whoever differs next. So do categories that are constant.
        """
        known = ~np.isnan(rna)
        number = np.maximum(known.sum(axis=0), 1)
        mean = np.where(known, rna, 0.0).sum(axis=0) / number
        scale = np.sqrt((np.where(known, rna - mean, 0.0) ** 2).sum(axis=0) / number)
        varies = np.array([_varies(column[~np.isnan(column)]) for column in rna.T])
        factor = np.where(varies, 1.0 / np.where(varies, scale, 1.0), 0.0)
        columns = {name: place for place, name in enumerate(vocabulary.columns)}
        matrix = np.diag((np.ptp(clinical, axis=0) > 0.0).astype(np.float64))
        offset = np.zeros(len(columns))
        for variable in vocabulary.numeric:
            place, missing = columns[variable.name], columns[f"{variable.name} missing"]
            present = clinical[clinical[:, missing] == 0.0, place]
            if not _varies(present):
                matrix[place, place] = 0.0
                continue
            # (x − mean) / scale where x is known; the missing column, 1 where it is not, takes the mean back out.
            matrix[place, place] = 1.0 / present.std()
            offset[place] = -present.mean() / present.std()
            matrix[place, missing] = -offset[place]
        return cls(factor, -mean * factor, matrix, offset)

    def apply(self, rna: NDArray[np.float64], clinical: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """rna [n, G], clinical [n, C] as the fold's members see them, float32; an absent gene is at the fold's mean."""
        moved_rna = np.where(np.isnan(rna), 0.0, rna * self.rna_factor + self.rna_offset)
        moved_clinical = clinical @ self.clinical_matrix.T + self.clinical_offset
        return torch.from_numpy(moved_rna).float(), torch.from_numpy(moved_clinical).float()

    def absorb(self, network: BilinearFusion) -> None:
        """Change the network's first layers so that it takes the cohort's standardisation instead of the fold's."""
        first = network.rna.layers[0]
        _absorb(first, first.weight.double() * torch.from_numpy(self.rna_factor), self.rna_offset)
        for fusion in (network.slide_clinical, network.rna_clinical):
            layer = fusion.second
            _absorb(layer, layer.weight.double() @ torch.from_numpy(self.clinical_matrix), self.clinical_offset)


def _varies(values: NDArray[np.float64]) -> bool:
    """Whether enough of the values [n] differ from the most usual one, their median, to learn a scale from."""
    return values.size > 0 and int((values != np.median(values)).sum()) >= max(2, values.size / 50)


@torch.no_grad()
def _absorb(layer: torch.nn.Linear, weight: Tensor, offset: NDArray[np.float64]) -> None:
    """Give ``layer`` the new ``weight``, and in its bias what it made of the inputs' ``offset``."""
    layer.bias.add_((layer.weight.double() @ torch.from_numpy(offset)).float())
    layer.weight.copy_(weight)


class EfronLoss:
    """Negative log partial likelihood of Cox's model, ties by Efron (1977), divided by the number of events."""

    def __init__(self, times: NDArray[np.float64], events: NDArray[np.bool_]) -> None:
        """Outcomes of n patients; raises InputError where none has an event."""
        if not events.any():
            raise InputError("the Cox loss needs at least one event among its patients")
        # Latest first, so that a running sum up to a time's last patient is the sum over its risk set.
        order = np.argsort(-times, kind="stable")
        ordered, happened = times[order], events[order]
        tie_times, tie = np.unique(-ordered, return_inverse=True)
        at_event = np.flatnonzero(happened)
        tie_of_event = tie[at_event]
        deaths = np.bincount(tie_of_event, minlength=len(tie_times))
        first = np.searchsorted(tie_of_event, tie_of_event, side="left")
        self._order = torch.from_numpy(order)
        self._events = torch.from_numpy(at_event)
        self._tie = torch.from_numpy(tie_of_event)
        self._ties = len(tie_times)
        self._risk_set = torch.from_numpy(np.searchsorted(tie, tie_of_event, side="right") - 1)
        # The k-th of d tied events sees the risk set less k/d of the tied patients themselves.
        self._share = torch.from_numpy((np.arange(len(at_event)) - first) / deaths[tie_of_event])

    def __call__(self, risk: Tensor) -> Tensor:
        """risk [n], log relative hazards → scalar. Sums are kept as logarithms, so no spread of risks underflows."""
        risk = risk.double()[self._order]
        events = risk[self._events]
        risk_set = torch.logcumsumexp(risk, dim=0)[self._risk_set]
        empty = torch.full((self._ties,), -torch.inf, dtype=risk.dtype)
        highest = empty.scatter_reduce(0, self._tie, events.detach(), "amax")[self._tie]
        tied = torch.zeros(self._ties, dtype=risk.dtype).index_add(0, self._tie, torch.exp(events - highest))
        tied = torch.log(tied[self._tie]) + highest
        remaining = risk_set + torch.log1p(-self._share * torch.exp(tied - risk_set))
        return (remaining - events).mean()


@dataclass(frozen=True)
class Bags:
    """Bags of n patients padded to one length: tiles [n, N, D], present [n, N]."""

    tiles: Tensor
    present: Tensor

    @classmethod
    def of(cls, bags: tuple[Tensor, ...]) -> "Bags":
        lengths = torch.tensor([len(bag) for bag in bags])
        tiles = torch.nn.utils.rnn.pad_sequence(list(bags), batch_first=True)
        return cls(tiles, torch.arange(tiles.shape[1]) < lengths[:, None])


@dataclass(frozen=True)
class _Inputs:
    """What the networks take of n patients."""

    bags: Bags
    rna: Tensor
    clinical: Tensor

    def risks(self, network: BilinearFusion, rows: NDArray[np.int64]) -> Fused:
        return network(self.bags.tiles[rows], self.rna[rows], self.clinical[rows], self.bags.present[rows])


def train(
    cohort: Cohort, settings: SlideSettings, sizes: Sizes, protocol: Protocol, root: Path, weights: Path | None
) -> None:
    """Train an ensemble on ``cohort`` and write it to ``root`` as a bundle.

    ``sizes`` gives the network's widths; those set by the data (tile, genes, clinical) are replaced. ``weights``
    is a tile encoder's weight file to carry along. Raises InputError for a cohort too small for its folds.
    """
    torch.use_deterministic_algorithms(True)
    if weights is not None:
        load_encoder(settings.encoder, weights, torch.device("cpu"))  # what is wrong with it shows before training
    folds = list(_folds(cohort, protocol))
    names = sorted({name for patient in cohort.clinical for name in patient})
    vocabulary = fit_vocabulary(cohort.clinical, names)
    expression = Expression.fit(cohort.genes, cohort.expression, protocol.transform)
    # Absent genes stay marked: each fold imputes them by its own training patients.
    rna = expression.transformed(cohort.expression).astype(np.float64)
    rna[np.isnan(cohort.expression)] = np.nan
    clinical = np.stack([vocabulary.encode(patient).values for patient in cohort.clinical]).astype(np.float64)
    sizes = replace(sizes, tile=settings.dimension, genes=rna.shape[1], clinical=clinical.shape[1])
    bags = Bags.of(cohort.bags)

    entries, states = [], {}
    reference = np.zeros(len(cohort.ids))
    for number, (fold, training, held_out) in enumerate(folds):
        transform = FoldTransform.fit(rna[training], clinical[training], vocabulary)
        inputs = _Inputs(bags, *transform.apply(rna, clinical))
        network, epoch, inner = _fit_member(cohort, inputs, training, sizes, protocol, number)
        with torch.inference_mode():
            risks, inner_risks = (inputs.risks(network, rows).risk.double().numpy() for rows in (held_out, inner))
        # From patients the weights were not fitted to, yet not those whose risks are to be held-out.
        location, scale = float(inner_risks.mean()), float(inner_risks.std())
        if scale < 1e-12:
            raise InputError(f"member {number}: gives every patient the same risk; nothing was learnt")
        reference[held_out] += (risks - location) / scale / protocol.seeds
        transform.absorb(network)
        file = f"members/{number:03}.safetensors"
        states[file] = network.state_dict()
        entries.append(MemberEntry(file, protocol.family, sizes.to_json(), MODALITIES, 1.0, location, scale))
        found = concordance(cohort.times[held_out], cohort.events[held_out], risks)
        stage("member", f"{number + 1} of {len(folds)}: fold {fold + 1}, best epoch {epoch}, held-out C {found:.3f}")

    overall = concordance(cohort.times, cohort.events, reference)
    stage("trained", f"{count(len(entries), 'member')}; concordance of the out-of-fold risks {overall:.3f}")
    purpose = DEMONSTRATION if cohort.simulated else RESEARCH
    provenance = _provenance(cohort, protocol, overall)
    save(
        root,
        Manifest(purpose, NOTICES[purpose], provenance, _with_weights(settings, root, weights), tuple(entries)),
        states,
        expression,
        vocabulary,
        Calibration.fit(cohort.times, cohort.events, reference, protocol.calibration),
    )


def _folds(cohort: Cohort, protocol: Protocol) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """(fold, training patients, held-out patients) of each member, events spread evenly over the folds."""
    if min(cohort.events.sum(), (~cohort.events).sum()) < 2 * protocol.folds:
        raise InputError(
            f"{count(int(cohort.events.sum()), 'event')} among {count(len(cohort.ids), 'patient')}: "
            f"{protocol.folds} folds need at least {2 * protocol.folds} patients with and without one"
        )
    splitter = StratifiedKFold(protocol.folds, shuffle=True, random_state=protocol.seed)
    for fold, (training, held_out) in enumerate(splitter.split(np.zeros(len(cohort.ids)), cohort.events)):
        happened, free = int(cohort.events[training].sum()), int((~cohort.events[training]).sum())
        # A stratified part of the smaller group: one at least must fall on either side of the inner split.
        if min(happened, free) * min(protocol.inner, 1.0 - protocol.inner) < 1.0:
            raise InputError(
                f"fold {fold + 1} trains on {count(happened, 'event')} and {count(free, 'patient')} without: too few "
                f"for an inner part of {protocol.inner:.0%}; expected at least {1.0 / protocol.inner:.0f} of each"
            )
        for _ in range(protocol.seeds):
            yield fold, training, held_out


def _fit_member(
    cohort: Cohort, inputs: _Inputs, training: NDArray[np.int64], sizes: Sizes, protocol: Protocol, number: int
) -> tuple[BilinearFusion, int, NDArray[np.int64]]:
    """A network fitted to ``training``, stopped where an inner part of them was predicted best; that epoch; and
    that inner part."""
    # Cohort seed and member number together: members of neighbouring seeds share nothing.
    seed = int(np.random.SeedSequence([protocol.seed, number]).generate_state(1)[0])
    fitted, inner = train_test_split(
        training, test_size=protocol.inner, random_state=seed, stratify=cohort.events[training]
    )
    torch.manual_seed(seed)
    network = build(protocol.family, sizes)
    optimiser = torch.optim.AdamW(network.parameters(), lr=protocol.learning_rate, weight_decay=protocol.weight_decay)
    loss, inner_loss = (EfronLoss(cohort.times[rows], cohort.events[rows]) for rows in (fitted, inner))
    best, best_epoch, best_state = np.inf, 0, dict[str, Tensor]()
    for epoch in range(1, protocol.epochs + 1):
        network.train()
        optimiser.zero_grad()
        loss(inputs.risks(network, fitted).risk).backward()
        optimiser.step()
        network.eval()
        with torch.no_grad():
            found = float(inner_loss(inputs.risks(network, inner).risk))
        if np.isfinite(found) and found < best:
            best, best_epoch = found, epoch
            best_state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        elif epoch - best_epoch >= protocol.patience:
            break
    if not best_state:
        raise InputError("training diverged: the inner validation loss was never finite")
    network.load_state_dict(best_state)
    return network, best_epoch, inner


def _provenance(cohort: Cohort, protocol: Protocol, overall: float) -> dict[str, Any]:
    return {
        "patients": len(cohort.ids),
        "events": int(cohort.events.sum()),
        "simulated": cohort.simulated,
        "protocol": asdict(protocol),
        "concordance_out_of_fold": round(overall, 4),
    }


def _with_weights(settings: SlideSettings, root: Path, weights: Path | None) -> SlideSettings:
    """Place the encoder's weights in the bundle as safetensors, under timm's names; or name the embedded ones."""
    if weights is None:
        return replace(settings, embedded_sha256=embedded_digest(settings.encoder))
    encoder = load_encoder(settings.encoder, weights, torch.device("cpu"))
    file = "encoder/weights.safetensors"
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in encoder.network.state_dict().items()}, root / file)
    return replace(settings, weights=file)
