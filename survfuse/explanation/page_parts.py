"""The part of an explanation's page on what the risk is made of: the sum, the modalities, genes and variables."""

from survfuse.evaluation.facts import table_html
from survfuse.explanation.bars import Row, bar_table
from survfuse.explanation.record_types import GIVEN, MISSING, Part, Record, VariablePart
from survfuse.explanation.words import joined, signed
from survfuse.networks.terms import TIMES
from survfuse.runtime.log import count
from survfuse.tasks.modalities import parse_combination

_PLACES = 3  # decimals of risks in a table

READING = """
<div class="note"><p><b>What a contribution is.</b> The risk of this case is the sum of the reference patient’s risk
and of all contributions on this page, up to rounding. Each says how much one input moves <em>the model’s</em> risk away
from that of the reference patient. Unit: standard deviations of the reference patients’ risks.</p>
<p><b>What it is not.</b> It describes the model, not the disease. It does not say that a tile shows a tumour, that a
gene drives it, or that changing a variable would change the outcome. Inputs that go together share what they
contribute. A contribution marked <abbr>≈ 0</abbr> is not told from zero: it is no larger than its spread (±), the
standard deviation over members of a family, which were fitted to different patients.</p>
<p><b>Attention explains nothing by itself.</b> It says how much of a tile the model takes in, not in which direction
the tile moves the risk, nor whether it does.</p></div>
"""


def sum_of_parts(written: Record) -> str:
    """The risk as a sum that begins with the reference patient's."""
    groups = {"tile": written["tiles"], "gene": written["genes"], "clinical variable": written["variables"]}
    rows = [Row((f"the reference patient: {written['reference']}",), written["baseline"]["value"])]
    for noun, group in groups.items():
        if group is not None:
            rows.append(Row((f"{count(group['number'], noun)} of this case",), group["sum"]))
    whole = [(f"the {part['name']} of this case", part) for part in (written["vector"],) if part is not None]
    whole += [(f"jointly: {_joint(part['name'])}", part) for part in written["joint"]]
    rows += [Row((name,), part["value"], part["sd"], part["told_from_zero"] is not False) for name, part in whole]
    rows.append(Row(("this case’s risk",), written["prediction"]["risk"], total=True))
    return "<h2>What the risk is made of</h2>" + bar_table(
        ("part",), rows, "Contributions relative to the reference patient; they add up to the risk."
    )


def _joint(name: str) -> str:
    return " and ".join(joined([each]) for each in name.split(TIMES))


def modalities(written: Record) -> str:
    """The risks without some of the modalities, and what each is worth; empty if there is nothing to leave out."""
    whole, *rest = written["risks"].items()
    used = parse_combination(whole[0])
    if not rest:
        return ""
    rows = [("with everything", signed(whole[1], places=_PLACES), "")]
    for name, risk in rest:
        lacking = [modality for modality in used if modality not in parse_combination(name)]
        texts = [signed(number, places=_PLACES) for number in (risk, risk - whole[1])]
        rows.append((f"without {joined(lacking)}", texts[0], texts[1]))
    single = [
        f"{name} it would be {risk}"
        for (name, risk, _), (key, _) in zip(rows[1:], rest, strict=True)
        if len(parse_combination(key)) == len(used) - 1
    ]
    parts = [
        "<h2>If something were missing</h2>",
        "<p>The same case, scored without some of its inputs by the members that do without them: "
        f"{', '.join(single)}.</p>",
        table_html(("scored", "risk", "difference"), rows),
    ]
    values = written["modality_values"]
    if values is not None:
        worth = [Row(("nothing known of the patient",), written["expected"])]
        worth += [Row((joined([name]),), value) for name, value in values.items()]
        worth.append(Row(("this case’s risk",), written["prediction"]["risk"], total=True))
        parts.append("<h3>What each is worth</h3>")
        caption = (
            "Exact Shapley values: the mean effect of adding the input, over all orders of adding them, beginning "
            "where nothing is known."
        )
        parts.append(bar_table(("input",), worth, caption))
    return "\n".join(parts)


def genes_table(written: Record) -> str:
    """The genes that raise and lower the risk most; empty if the risk has no parts of genes."""
    genes = written["genes"]
    if genes is None:
        return ""
    tables = "".join(
        bar_table(("gene",), map(_row, listed), _most(len(listed), kind))
        for listed, kind in ((genes["raising"], "raise"), (genes["lowering"], "lower"))
        if listed
    )
    told = count(genes["number"], "gene")
    if genes["told_from_zero"] is not None:
        told = f"{genes['told_from_zero']:,} of {told} told from zero"
    return f'<h2>Genes</h2><p>{told}; together {signed(genes["sum"])}.</p><div class="pair tables">{tables}</div>'


def _most(number: int, kind: str) -> str:
    """The caption of the ``number`` genes that most raise or lower the risk."""
    return f"The gene that {kind}s the risk most" if number == 1 else f"The {number} genes that {kind} the risk most"


def _row(part: Part) -> Row:
    return Row((part["name"],), part["value"], part["sd"], part["told_from_zero"] is not False)


def variables_table(written: Record) -> str:
    """Each clinical variable with the patient's value; empty if the risk has no parts of variables."""
    variables = written["variables"]
    if variables is None:
        return ""
    rows = [
        Row((each["name"], _stated(each)), each["value"], each["sd"], each["told_from_zero"] is not False)
        for each in variables["all"]
    ]
    return "<h2>Clinical variables</h2>" + bar_table(
        ("variable", "patient’s value"), rows, "A missing value contributes what the model makes of its being missing."
    )


def _stated(variable: VariablePart) -> str:
    """A variable's value as the page shows it."""
    if variable["state"] == MISSING:
        return "missing"
    return f"{variable['stated']}{'' if variable['state'] == GIVEN else ' (unknown, counted as missing)'}"
