"""A case's explanation: its prediction, the additive parts of its risk, and what each modality is worth to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from survfuse.bundle.load import Bundle
from survfuse.explanation.attribution import Attribution, Parts, attribute
from survfuse.explanation.case_places import case_places
from survfuse.explanation.modality_values import shapley_values
from survfuse.explanation.reference_patient import ReferencePatient, reference_patient
from survfuse.inputs.case import Case
from survfuse.networks.ensemble import Tensors
from survfuse.prediction.prediction import Prediction
from survfuse.prediction.predictor import Inputs, Predictor
from survfuse.runtime.errors import BundleError
from survfuse.runtime.log import Note, Record, count, recorded, stage, warn
from survfuse.slide.tile_places import TilePlaces
from survfuse.tasks.modalities import all_combinations, combination_name, ordered, parse_combination

if TYPE_CHECKING:
    from survfuse.networks.online_softmax import Pool

INCOMPLETE = "the parts do not add up to the risk"
COMPLETE = 1e-3  # largest difference of the parts' sum from the risk, relative to max(1, |risk|)


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a case has its risk: the prediction's ``risk`` = ``baseline`` + the sum of all parts.

    Parts are in units of the risk, relative to the average reference patient, whose risk is the baseline. A part is
    told from zero if it exceeds its spread, the standard deviation over members of one family.

    >>> import survfuse
    >>> from contextlib import redirect_stdout
    >>> with redirect_stdout(None):  # demonstration weights announce themselves
    ...     model = survfuse.demonstration(device="cpu")
    >>> explanation = model.explain(survfuse.Case(clinical={"age": 71, "sex": "Male", "stage": "T1HG"}))
    >>> parts = explanation.attribution.variables.values
    >>> bool(abs(explanation.baseline + parts.sum() - explanation.prediction.risk) < 1e-5), len(explanation.variables)
    (True, 13)
    """

    prediction: Prediction
    attribution: Attribution = field(repr=False)
    reference: str  # the patient that the case is compared with, in words
    risks: Mapping[str, float]  # of the case under each combination of its modalities that is scored, by name
    modality_values: Mapping[str, float] | None  # exact Shapley values; None if a combination is not scored
    expected: float  # the risk of somebody of whom nothing is known, where the modalities' values begin
    genes: tuple[str, ...]  # G names
    variables: tuple[str, ...]  # V names, clinical
    places: TilePlaces | None  # of the N tiles, if they are known
    notes: tuple[tuple[str, Note], ...]  # what was said of case and explanation, as in ``prediction.notes``
    warnings: tuple[str, ...]  # likewise
    case: Case = field(repr=False)
    bundle: Bundle = field(repr=False)

    @property
    def baseline(self) -> float:
        """The reference patient's risk."""
        return float(self.attribution.baseline.values[0])

    @property
    def mapped(self) -> tuple[TilePlaces, Parts] | None:
        """The tiles' places and what each adds [N]; None unless both are known."""
        if self.places is None or self.attribution.tiles is None:
            return None
        return self.places, self.attribution.tiles


class Explainer:
    """A predictor that also explains; what the bundle's cases share is read once."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def explain(
        self,
        case: Case,
        *,
        modalities: Sequence[str] | None = None,
        seconds: float | None = None,
        omit_unusable_slide: bool = False,
        show: bool = False,
        said: Record | None = None,
    ) -> Explanation:
        """Predict one case as ``Predictor.predict`` does, with the same arguments and errors, and explain it."""
        predictor = self.predictor
        inputs = predictor.inputs(
            case, modalities, seconds=seconds, omit_unusable_slide=omit_unusable_slide, show=show, said=said
        )
        half, tensors = predictor.computes_in_half([inputs]), inputs.tensors
        pools = predictor.ensemble.pools(tensors.tiles, half)
        prediction = predictor.concluded(inputs, predictor.ensemble.fused(tensors, pools), show)
        with recorded(show) as record:
            attribution = self._attribution(inputs, pools)
            _check_sum(attribution, prediction.risk)
            stage("parts", *_described(attribution), f"relative to {self.reference.description}")
            places = case_places(case, inputs.tiles)
        risks = self._risks(tensors, pools)
        expected = float(predictor.bundle.calibration.reference_risks.mean())
        bundle = predictor.bundle
        return Explanation(
            prediction=prediction,
            attribution=attribution,
            reference=self.reference.description,
            risks=risks,
            modality_values=shapley_values({parse_combination(name): risk for name, risk in risks.items()}, expected),
            expected=expected,
            genes=tuple(bundle.expression.genes) if bundle.expression is not None else (),
            variables=tuple(each.name for each in bundle.vocabulary.variables) if bundle.vocabulary is not None else (),
            places=places,
            notes=(*prediction.notes, *record.notes),
            warnings=(*prediction.warnings, *(note.text for note in record.warnings)),
            case=inputs.case,
            bundle=bundle,
        )

    @cached_property
    def reference(self) -> ReferencePatient:
        """The patient that cases are compared with; raises BundleError for averages that do not fit."""
        return reference_patient(self.predictor.bundle, self.predictor.ensemble)

    def _attribution(self, inputs: Inputs, pools: "Sequence[Pool | None]") -> Attribution:
        vocabulary = self.predictor.bundle.vocabulary
        columns = [len(each.columns()) for each in vocabulary.variables] if vocabulary is not None else []
        return attribute(self.predictor.ensemble, inputs.tensors, pools, self.reference, columns)

    def _risks(self, case: Tensors, pools: "Sequence[Pool | None]") -> dict[str, float]:
        """The risk under each combination of the case's modalities that the bundle scores, larger ones first."""
        ensemble, risks = self.predictor.ensemble, {}
        for combination in all_combinations(ordered(case.given, ensemble.modalities)):
            name = combination_name(combination)
            if name in ensemble.combinations:
                risks[name] = ensemble.fused(case.only(combination), pools).risk
        return risks


def _check_sum(attribution: Attribution, risk: float) -> None:
    """Warn if the parts do not add up to the risk: integrals may converge slowly for weights of extreme size.

    Raises BundleError if they are not finite.
    """
    if not np.isfinite(attribution.total):
        raise BundleError("the parts of the risk are not finite: the bundle's weights or averages are out of range")
    if not abs(attribution.total - risk) <= COMPLETE * max(1.0, abs(risk)):
        warn(Note(f"{INCOMPLETE}: to {attribution.total:.6g} instead of {risk:.6g}", (INCOMPLETE,)))


def _described(attribution: Attribution) -> list[str]:
    """How many parts the risk was divided into, in words."""
    parts = {
        "tile": attribution.tiles,
        "slide-level vector": attribution.vector,
        "gene": attribution.genes,
        "variable": attribution.variables,
    }
    words = [count(len(part.values), noun) for noun, part in parts.items() if part is not None]
    return [*words, count(len(attribution.joint), "joint part")] if attribution.joint else words
