"""The only path from a case to a number: the job, the ``predict`` command and the Python API all use it.

case → expression, clinical vector, tile features → ensemble → risk → calibration → months
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from survfuse.bundle.demonstration import announce_demonstration
from survfuse.bundle.load import Bundle, load_members
from survfuse.inputs.case import Case
from survfuse.prediction.in_sample import digests_of, say_in_sample
from survfuse.prediction.prediction import HIGH, LOW, Prediction
from survfuse.prediction.time_estimate import time_limit
from survfuse.prediction.vectors import (
    SlideTiles,
    as_tiles,
    clinical_vector,
    expression_vector,
    read_slide,
    slide_vector,
)
from survfuse.runtime.errors import BundleError, InputError, NoTissueError
from survfuse.runtime.log import Note, Record, count, recorded, stage, warn
from survfuse.tasks.modalities import Combination, check_modalities, combination_name, ordered
from survfuse.tasks.task import VECTOR

if TYPE_CHECKING:
    import torch

    from survfuse.networks.ensemble import Ensemble, EnsembleRisk, Tensors
    from survfuse.slide.encoders import Encoder

FAR_BEYOND = "the risk is far beyond those of the reference patients"
INPUTS = "features, slide-level vectors, expression or clinical variables"
OTHER_UNITS = f"{INPUTS} may be in other units than the bundle was trained on"
BEYOND_ALL_RANGE = f"{INPUTS} are far out of range"


@dataclass(frozen=True)
class Inputs:
    """One case's inputs as the networks take them, None for what the case lacks; and what was said of them."""

    case: Case
    rna: "torch.Tensor | None"  # [G]
    clinical: "torch.Tensor | None"  # [C]
    tiles: SlideTiles | None
    said: Record
    training_patient: bool | None = None  # whether the bundle was trained on it; None: not known
    vector: "torch.Tensor | None" = None  # [V], slide-level

    @property
    def name(self) -> str:
        """The case's."""
        return self.case.name

    @property
    def half(self) -> bool:
        """Whether its tiles are of half precision."""
        return self.tiles is not None and self.tiles.half

    @property
    def tensors(self) -> "Tensors":
        """As the ensemble takes them."""
        from survfuse.networks.ensemble import Tensors

        tiles = self.tiles.features if self.tiles is not None else None
        return Tensors(tiles, self.rna, self.clinical, self.vector)


class Predictor:
    """A bundle ready to predict. torch is imported, and weights are read, when the first case needs them."""

    def __init__(self, bundle: Bundle, device: str | None = None) -> None:
        """``device`` is auto, cpu, cuda or cuda:N; None takes SURVFUSE_DEVICE, else auto."""
        self.bundle = bundle
        self._device_option = device
        self._said_of_device = Record()

    @cached_property
    def device(self) -> "torch.device":
        """Where layers over tiles run; raises EnvironmentFailure if a requested device cannot be used."""
        from survfuse.runtime.device import chosen_device

        with recorded(show=False) as self._said_of_device:  # it is true of every case that is predicted
            return chosen_device(self._device_option)

    @cached_property
    def ensemble(self) -> "Ensemble":
        """The bundle's networks; raises BundleError for weights that do not fit."""
        from survfuse.networks.ensemble import Ensemble

        return Ensemble(load_members(self.bundle), self.bundle.manifest.combinations, self.device)

    @cached_property
    def encoder(self) -> "Encoder":
        """The bundle's tile encoder; raises BundleError for weights that are absent or do not fit."""
        from survfuse.slide.encoders import load_encoder

        return load_encoder(self.bundle.manifest.slide.encoder, self.bundle.encoder_weights(), self.device, BundleError)

    @property
    def _on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def _encodes_in_half(self) -> bool:
        """Whether the bundle's encoder computes in half precision on the device."""
        import torch

        from survfuse.slide.precision import encoder_precision
        from survfuse.slide.registry import find_spec

        spec = find_spec(self.bundle.manifest.slide.encoder, BundleError)
        return encoder_precision(spec, self.device) != torch.float32

    def predict(
        self,
        case: Case,
        *,
        modalities: Sequence[str] | None = None,
        seconds: float | None = None,
        omit_unusable_slide: bool = False,
        show: bool = False,
        said: Record | None = None,
    ) -> Prediction:
        """Predict one case from what it has of ``modalities`` (default: all that the bundle uses).

        ``seconds``, counted from the process's start, limit a job's time: tiles that cannot be encoded in time are left
        out. With ``omit_unusable_slide`` a slide that cannot be read is left out with a warning if the bundle scores
        such cases. ``show`` prints notes and warnings as they arise; the prediction always keeps them, after those
        ``said`` while the case was read.

        Raises InputError for inputs that cannot be used, BundleError for a bundle that cannot, and EnvironmentFailure
        if the machine fails or time is too short.
        """
        read = self.inputs(
            case, modalities, seconds=seconds, omit_unusable_slide=omit_unusable_slide, show=show, said=said
        )
        return self.concluded(read, self.risks([read])[0], show)

    def inputs(
        self,
        case: Case,
        modalities: Sequence[str] | None = None,
        *,
        seconds: float | None = None,
        omit_unusable_slide: bool = False,
        show: bool = False,
        said: Record | None = None,
    ) -> Inputs:
        """The first half of ``predict``: read the case's files and encode its tiles."""
        used = self.chosen(modalities)
        with recorded(show, said) as record:
            if modalities is None:
                case = case.loaded()  # a file that is not JSON is refused, whether or not the bundle uses it
            return self._inputs(case, used, seconds, omit_unusable_slide, record)

    def risks(self, cases: Sequence[Inputs]) -> "list[EnsembleRisk]":
        """The ensemble's risk of each of ``cases``, which have the same modalities; several, only on a CPU.

        Safe from several threads at once, on as many of torch's threads as the calling one is set to.
        """
        return self.ensemble.together([case.tensors for case in cases], self.computes_in_half(cases))

    def computes_in_half(self, cases: Sequence[Inputs]) -> bool:
        """Whether layers over the tiles of ``cases`` run in half precision: on a GPU, for such tiles."""
        return self._on_gpu and any(case.half for case in cases)

    def concluded(self, inputs: Inputs, risk: "EnsembleRisk", show: bool = False) -> Prediction:
        """The second half: the prediction for an ensemble's risk; raises InputError for one that is not finite."""
        with recorded(show, inputs.said) as record:
            return self._prediction(inputs, risk, record)

    def chosen(self, modalities: Sequence[str] | None) -> Combination:
        """Those of ``modalities`` that the bundle uses; None: all of them.

        Raises InputError for a name that is not one of the task's modalities.
        """
        if modalities is None:
            return self.bundle.modalities
        check_modalities(modalities, self.bundle.task.with_vectors().modalities)
        return ordered(modalities, self.bundle.modalities)

    def _inputs(self, case: Case, used: Combination, seconds: float | None, omit: bool, record: Record) -> Inputs:
        bundle = self.bundle
        left_out = [name for name in bundle.modalities if name not in used]
        rna = expression_vector(case, bundle) if "rna" not in left_out else None
        clinical = clinical_vector(case, bundle) if "clinical" not in left_out else None
        vector = slide_vector(case, bundle) if VECTOR not in left_out else None
        has = {
            "slide": "slide" in case.given,
            VECTOR: vector is not None,
            "rna": rna is not None,
            "clinical": clinical is not None,
        }
        given = tuple(name for name in used if has[name])
        self._check_scored(given, used, case)

        import torch

        if "slide" not in bundle.modalities:
            stage("slide", "not used by this bundle")
        ensemble = self.ensemble
        for note in self._said_of_device.warnings:
            warn(note)
        rna_values = torch.from_numpy(rna.values) if rna is not None else None
        clinical_values = torch.from_numpy(clinical) if clinical is not None else None
        vector_values = torch.from_numpy(vector) if vector is not None else None
        tiles = None
        if "slide" in given:
            limit = None
            if seconds and case.slide is not None:
                dimension = bundle.manifest.slide.dimension
                half = self._on_gpu and self._encodes_in_half
                limit = time_limit(seconds, ensemble, rna_values, clinical_values, dimension, half, vector_values)
            try:
                slide = read_slide(case, bundle, self.device, limit, lambda: self.encoder)
            except InputError as problem:
                self._leave_slide_out(problem, given, used, omit, case)
            else:
                tiles = as_tiles(slide, bundle)
        known = bundle.training_patients
        held = known.hold(digests_of(known, tiles, rna, clinical, vector)) if known is not None else None
        if known is not None and held:
            say_in_sample(case.name, known)
        return Inputs(case, rna_values, clinical_values, tiles, record, held, vector_values)

    def _check_scored(self, given: Combination, used: Combination, case: Case) -> None:
        """Note what is not ``given`` of what is ``used``; raise InputError if the bundle cannot score the rest."""
        missing = ", ".join(name for name in used if name not in given)
        left_out = ", ".join(name for name in self.bundle.modalities if name not in used)
        name = combination_name(given)
        if name not in self.bundle.manifest.combinations:
            trained = ", ".join(self.bundle.manifest.combinations)
            lacks = [f"the case lacks {missing}"] if missing else []
            lacks += [f"{left_out} left out on request"] if left_out else []
            unread = ", ".join(name for name in case.given if name not in self.bundle.modalities)
            lacks += [f"{unread} not used by this bundle"] if unread else []
            raise InputError(f"{'; '.join(lacks) or 'the case lacks a modality'}; this bundle scores {trained}")
        for title, names in (("missing", missing), ("left out", left_out)):
            if names:
                text = f"{names}; scored with {name}, as the bundle was trained to do"
                stage(title, Note(text, (text,)))

    def _leave_slide_out(
        self, problem: InputError, given: Combination, used: Combination, omit: bool, case: Case
    ) -> None:
        """Warn that the slide is left out; raise ``problem`` if it must not be."""
        rest = tuple(name for name in given if name != "slide")
        scored = combination_name(rest) in self.bundle.manifest.combinations
        if not (omit or isinstance(problem, NoTissueError)) or not scored:
            raise problem
        warn(Note(f"the slide is left out: {problem}", ("the slide is left out",)))
        self._check_scored(rest, used, case)

    def _prediction(self, inputs: Inputs, risk: "EnsembleRisk", record: Record) -> Prediction:
        """The prediction for an ensemble's risk; logs each step towards it."""
        bundle, tiles = self.bundle, inputs.tiles
        if not math.isfinite(risk.risk):
            raise InputError(f"the risk is {risk.risk}: {BEYOND_ALL_RANGE}")
        terms = ", ".join(f"{term} {value:+.4f}" for term, value in risk.terms.items())
        stage("risk", f"{risk.risk:+.4f} = {terms}, baseline {risk.baseline:+.4f}; on {device_name(self.device)}")
        self._warn_far_beyond(risk.risk)
        predicted = bundle.calibration.months(risk.risk)
        months, beyond = float(predicted.months), bool(predicted.beyond)
        if not math.isfinite(months) or months < 0.0:
            raise BundleError(f"calibration gives {months} months; expected a finite number of at least 0")
        last = "; beyond the last observed event" if beyond else ""
        stage("months", f"{months:.3f} ({bundle.calibration.mode} calibration{last})")
        curve = bundle.curves[risk.combination] if bundle.curves is not None else None
        if curve is not None:
            horizons = bundle.task.horizons
            survival = curve.survival([risk.risk], horizons)[0]
            shares = ", ".join(f"{share:.1%} at {at:g} months" for share, at in zip(survival, horizons, strict=True))
            stage("survival", f"event-free survival: {shares}")
        return Prediction(
            name=inputs.name,
            combination=risk.combination,
            months=months,
            beyond=beyond,
            risk=risk.risk,
            baseline=risk.baseline,
            terms=risk.terms,
            member_risks=risk.member_risks.numpy(),
            attention=risk.attention.numpy() if risk.attention is not None else None,
            coordinates=tiles.coordinates if tiles is not None else None,
            notes=tuple(record.notes),
            warnings=tuple(note.text for note in record.warnings),
            warning_notes=tuple(record.warnings),
            demonstration=bundle.demonstration,
            group=HIGH if risk.risk > bundle.calibration.cut else LOW,
            training_patient=inputs.training_patient,
            curve=curve,
        )

    def _warn_far_beyond(self, risk: float) -> None:
        low, high = self.bundle.calibration.reference_risks[[0, -1]].tolist()
        margin = max(high - low, 1.0)  # risks have a spread of about 1; those of a few patients may all be the same
        if not low - margin <= risk <= high + margin:
            text = f"{FAR_BEYOND}, {low:.4g} to {high:.4g}: {OTHER_UNITS}"
            warn(Note(text, (f"{FAR_BEYOND}: {OTHER_UNITS}",)))


def announce(bundle: Bundle) -> None:
    """Log which bundle is used and, for demonstration weights, that its numbers mean nothing clinically."""
    manifest = bundle.manifest
    unknown = ["does not know its training patients"] if bundle.training_patients is None else []
    members = count(len(manifest.members), "member")
    stage("bundle", f"{manifest.purpose}, {members}, every checksum verified", *unknown)
    announce_demonstration(bundle)


def device_name(device: "torch.device") -> str:
    """What the log calls ``device``: a GPU's own name, or the CPU with its threads."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {count(torch.get_num_threads(), 'thread')}"
