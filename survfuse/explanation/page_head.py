"""The first part of an explanation's page: whose it is, the prediction, and its place among the reference patients."""

from html import escape

from survfuse.explanation.drawings import drawings
from survfuse.explanation.explanation import Explanation
from survfuse.explanation.record_types import Record
from survfuse.explanation.words import joined, share, signed
from survfuse.runtime.log import count
from survfuse.tasks.modalities import parse_combination


def head(explanation: Explanation, written: Record) -> str:
    """The notice of demonstration weights, warnings, the title, and what the case was predicted from."""
    notice = written["model"]["notice"]
    first = ""
    if explanation.bundle.demonstration:
        first = f'<div class="notice"><strong>Demonstration weights.</strong> {escape(notice)}</div>'
    if written["warnings"]:
        listed = "".join(f"<li>{escape(text)}</li>" for text in written["warnings"])
        first += f'<div class="notice"><strong>Warnings</strong><ul>{listed}</ul></div>'
    used = joined(parse_combination(written["prediction"]["combination"]))
    return (
        f"{first}<h1>Why this risk: {escape(written['case'])}</h1>"
        f'<p class="lead">Predicted from {escape(used)} by {count(written["model"]["members"], "member")} of an '
        "ensemble. For research; not for decisions about a patient’s care.</p>"
    )


def summary(written: Record) -> str:
    """The predicted months and what they mean, the risk with its percentile, and event-free survival."""
    case = written["prediction"]
    others = f"of the {count(case['reference_risks'], 'reference patient')}"
    position = f"higher than the risk of {share(case['percentile'])} {others}, lower than that of "
    position += share(100.0 - case["percentile"])
    spread = f"; members differ by ± {case['risk_sd']:.2f}" if case["risk_sd"] is not None else ""
    survival = "not known: the bundle has no curves"
    if case["survival"]:
        rows = "".join(
            f'<tr><th scope="row">{each["months"]:g} months</th><td>{each["event_free"]:.1%}</td></tr>'
            for each in case["survival"]
        )
        survival = f"<table><tbody>{rows}</tbody></table>"
    return (
        f'<dl class="figures"><div><dt>Predicted time to the event</dt><dd><span class="large">{case["months"]:.1f} '
        f'months</span></dd><dd class="small">{_months_mean(written)}</dd></div>'
        f'<div><dt>Risk (larger is worse)</dt><dd><span class="large">{signed(case["risk"])}</span></dd>'
        f'<dd class="small">{position}{spread}</dd></div>'
        f"<div><dt>Probability of no event by</dt><dd>{survival}</dd></div></dl>"
    )


def _months_mean(written: Record) -> str:
    """What the months mean."""
    case = written["prediction"]
    if not case["beyond_last_event"]:
        return (
            "By the follow-up of the reference patients. Best read as a ranking: of two patients, the one with fewer "
            "months is expected to have the event sooner."
        )
    last = f", in month {case['last_event']:g}" if case["last_event"] is not None else ""
    return (
        f"<strong>Only a ranking:</strong> it lies beyond the last event of the reference patients{last}. They do not "
        "show what happens there; the probabilities by month say more."
    )


def figures(explanation: Explanation, written: Record) -> str:
    """The drawings with their captions."""
    drawn, spread = drawings(explanation, written), written["prediction"]["risk_sd"]
    band = ""
    if spread is not None:
        band = (
            f" Shaded: between the curves at the risk ± {spread:.2f}, its spread over members that were fitted "
            "to different patients. It shows how much they disagree; it is not a confidence interval."
        )
    position = (
        f"<figure>{drawn['position']}<figcaption>The case’s risk among those of "
        "the reference patients, each predicted by models that had not seen the patient.</figcaption></figure>"
    )
    curve = ""
    if "curve" in drawn:
        curve = (
            f"<figure>{drawn['curve']}<figcaption>Event-free "
            f"survival of this case, and of all reference patients (dashed, Kaplan–Meier).{band} The "
            "red line is the predicted time.</figcaption></figure>"
        )
    return f'<h2>Survival, and the risk’s place</h2><div class="pair">{curve}{position}</div>'
