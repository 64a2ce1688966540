"""JSON as it really comes: what is plain is taken as it is meant, everything else is refused by name."""

import json
import math
import os
from pathlib import Path

import pytest
from conftest import DEMONSTRATION, PLACES, SLUGS, end_of, months
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from survfuse.inputs.clinical import Vocabulary
from survfuse.inputs.expression import Expression
from survfuse.inputs.sockets import read_case
from survfuse.runtime.errors import InputError, one_line
from survfuse.runtime.files import LARGEST_JSON, read_json, read_object, spelt_number

PLACE = {"rna": PLACES["rna"], "clinical": PLACES["clinical"], "inputs": "inputs.json"}
VARIABLES = (Path(__file__).parent / "input/interf1" / PLACES["clinical"]).read_text()

REFUSED = {
    "empty file": (b"", "the file is empty"),
    "blanks": (b" \n\t ", "not valid JSON"),
    "an array": (b"[]", "expected one JSON object, found an array"),
    "a string": (b'"x"', "expected one JSON object, found a string"),
    "null": (b"null", "expected one JSON object, found null"),
    "a number": (b"12", "expected one JSON object, found a number"),
    "twice": (b'{"x": 1, "y": 2, "x": 3}', "the key 'x' occurs more than once"),
    "twice inside": (b'{"x": {"a": 1, "a": 1}}', "the key 'a' occurs more than once"),
    "not UTF-8": (b'{"x": "\xff"}', "not UTF-8 text (byte 7)"),
    "UTF-16": ('{"x": 1}'.encode("utf-16"), "not UTF-8 text"),
    "cut off": (b'{"x": 1, ', "not valid JSON"),
    "two values": (b"{} {}", "not valid JSON (Extra data; line 1, column 4)"),
    "trailing comma": (b'{"x": 1,}', "not valid JSON"),
    "single quotes": (b"{'x': 1}", "not valid JSON"),
    "nested deep": (b'{"x":' * 100_000, "nested too deep"),
    "arrays nested deep": (b"[" * 1_000_000, "nested too deep"),
    "endless digits": (b'{"x": ' + b"9" * 10_000 + b"}", "a number of too many digits"),
    "200 MB of nesting": (None, f"200,000,000 bytes, expected at most {LARGEST_JSON:,}"),
}


@pytest.mark.parametrize("place", ["rna", "clinical"])
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_object_is_refused(case, output, capsys, place, kind):
    data, message = REFUSED[kind]
    path = case / PLACE[place]
    if data is None:
        with path.open("wb") as file:
            file.write(b'{"x":' * 1000)
            file.truncate(200_000_000)
    else:
        path.write_bytes(data)
    assert end_of(case, output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"survfuse: InputError: {path.name}: ") and message in line


@pytest.mark.parametrize("place", PLACE)
@pytest.mark.parametrize("kind", ["folder", "loop", "broken link", "pipe"])
def test_what_is_no_file_is_refused(case, output, capsys, place, kind):
    path = case / PLACE[place]
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else "nowhere")
    assert end_of(case, output) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("survfuse: InputError: ")
    assert "expected a file, found" in line or "cannot be read" in line


def test_a_link_to_a_file_is_followed(case, output):
    path = case / PLACE["rna"]
    path.rename(case / "elsewhere.json")
    path.symlink_to("elsewhere.json")
    assert end_of(case, output) == 0


def test_a_byte_order_mark_and_numbers_as_text_change_nothing(case, tmp_path, capsys):
    assert end_of(case, tmp_path / "plain") == 0
    expression, variables = (json.loads((case / PLACE[name]).read_text()) for name in ("rna", "clinical"))
    text = {gene: f" {value!r}\t" for gene, value in expression.items()}
    (case / PLACE["rna"]).write_bytes(b"\xef\xbb\xbf" + json.dumps(text).encode())
    (case / PLACE["clinical"]).write_text(json.dumps(variables | {"age": f"{variables['age']}"}))
    capsys.readouterr()
    assert end_of(case, tmp_path / "text") == 0
    plain, spelt = (next((tmp_path / name).iterdir()).read_bytes() for name in ("plain", "text"))
    assert plain == spelt
    said = capsys.readouterr()
    assert said.err == ""
    assert f"{PLACE['rna']}: byte-order mark ignored" in said.out
    assert f"{len(text)} numbers given as text" in said.out and "numbers given as text: age" in said.out


@pytest.mark.parametrize(
    "value", ["1,5", "1_000", "0x10", "one", "١٢", "1.5.2", "", "NaN", "Infinity", [1.0], {"value": 1}, True, None]
)
def test_expression_that_is_not_plainly_a_number_is_refused(case, output, capsys, value):
    expression = json.loads((case / PLACE["rna"]).read_text())
    (case / PLACE["rna"]).write_text(json.dumps(expression | {"TP53": value}))
    assert end_of(case, output) == 2
    assert "expression of 'TP53': expected a number, found" in capsys.readouterr().err


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_literals_that_are_no_json_numbers(case, tmp_path, capsys, literal):
    """A variable of NaN is missing, as "nan" is; nothing else of the kind is taken for a number or a gap."""
    for name in ("age", "no_instillations"):
        (case / PLACE["clinical"]).write_text(VARIABLES.replace("{", f'{{"{name}_other": 0, ', 1))
        changed = json.loads((case / PLACE["clinical"]).read_text())
        text = json.dumps(changed | {name: "LITERAL"}).replace('"LITERAL"', literal)
        (case / PLACE["clinical"]).write_text(text)
        assert end_of(case, tmp_path / "clinical") == (0 if literal == "NaN" else 2)
    assert capsys.readouterr().err.count("out of its plausible range") == (0 if literal == "NaN" else 2)
    (case / PLACE["clinical"]).write_text(VARIABLES)
    expression = json.dumps(json.loads((case / PLACE["rna"]).read_text()) | {"TP53": "LITERAL"})
    (case / PLACE["rna"]).write_text(expression.replace('"LITERAL"', literal))
    assert end_of(case, tmp_path / "rna") == 2
    assert "expression of 'TP53'" in capsys.readouterr().err


@pytest.mark.parametrize("literal", ["NaN", "-Infinity"])
def test_literals_have_no_place_in_the_jobs_own_list(case, output, capsys, literal):
    path = case / "inputs.json"
    path.write_text(path.read_text().replace('"kind"', f'"x": {literal}, "kind"', 1))
    assert end_of(case, output) == 2
    assert f"inputs.json: not usable JSON ({literal} is not a finite number)" in capsys.readouterr().err


def test_names_from_outside_cannot_forge_lines(case, output, capsys):
    """Control characters, line ends and lone surrogates in names that the log shows."""
    names = {"a\nsurfuse: InputError: b": 1, "\x1b[31mred": 2, "\ud800": 3, "x" * 10_000: 4}
    (case / PLACE["clinical"]).write_text(json.dumps(json.loads(VARIABLES) | names))
    assert end_of(case, output) == 0
    out = capsys.readouterr().out
    assert all(line.startswith("[") and line.isprintable() and len(line) < 2000 for line in out.splitlines())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
quick = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(value=json_values)
def test_any_json_value_is_read_as_pythons_reader_does(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
    expected = json.loads(json.dumps(value))
    found = read_json(path, InputError, literals=True)
    assert json.dumps(found) == json.dumps(expected)
    holds = any(math.isnan(x) or math.isinf(x) for x in numbers(expected))
    try:
        read_json(path, InputError)
    except InputError as error:
        assert holds and "is not a finite number" in str(error)
    else:
        assert not holds


def numbers(value: object) -> list[float]:
    if isinstance(value, dict | list):
        return [x for entry in (value.values() if isinstance(value, dict) else value) for x in numbers(entry)]
    return [value] if isinstance(value, float) else []


@quick
@given(data=st.binary(max_size=200))
@example(data=b"\xef\xbb\xbf{}")
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(data)
    try:
        value = read_object(path, InputError)
    except InputError as error:
        assert error.line().isprintable()
    else:
        assert value == json.loads(data.decode("utf-8-sig"))


@quick
@given(value=json_values)
def test_any_value_of_a_patient_is_read_or_refused(value):
    """What is taken gives finite vectors; a value that is no number never becomes one."""
    expression = Expression.from_json(json.loads((DEMONSTRATION / "genes.json").read_text()))
    vocabulary = Vocabulary.from_json(json.loads((DEMONSTRATION / "clinical.json").read_text()))
    patient = json.loads((DEMONSTRATION.parent.parent / "test/input/interf1" / PLACE["rna"]).read_text())
    try:
        values = expression.encode(patient | {"TP53": value}).values
        assert (isinstance(value, str) and spelt_number(value) is not None) or type(value) in (int, float)
        assert all(map(math.isfinite, values.tolist()))
    except InputError as error:
        assert "'TP53'" in str(error)
    for name in ("age", "sex"):
        try:
            vector = vocabulary.encode(json.loads(VARIABLES) | {name: value})
            assert not isinstance(value, dict | list) and all(map(math.isfinite, vector.values.tolist()))
        except InputError as error:
            assert f"clinical variable {name}" in str(error)


@given(st.text())
@example("1e5")
@example("+0012.50")
@example("٣")
@example("1_0")
@example("  7 ")
@example("1.")
@example("0\x1f")
def test_spelt_numbers_are_pythons_where_they_are_any(text):
    found = spelt_number(text)
    if found is not None:
        assert found == float(text) and text.strip().isascii() and "_" not in text


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**15), 10**15))
def test_every_number_that_json_writes_is_spelt(value):
    assert spelt_number(json.dumps(value)) == value


@given(st.text(max_size=300))
def test_a_log_line_is_one_printable_line(text):
    assert one_line(text).isprintable()


@quick
@given(
    slugs=st.lists(st.sampled_from([*SLUGS.values(), "ct-image", ""]), max_size=6),
    path=st.text(max_size=20) | st.sampled_from([*PLACES.values(), "../x", "/etc", ".", "images"]),
)
def test_any_list_of_sockets_is_a_case_or_refused(tmp_path_factory, slugs, path):
    root = tmp_path_factory.mktemp("root")
    (root / "images").mkdir()
    (root / PLACE["rna"]).write_text("{}")
    places = [path if number % 2 else None for number in range(len(slugs))]
    entries = [{"interface": {"slug": slug, "relative_path": at}} for slug, at in zip(slugs, places, strict=True)]
    (root / "inputs.json").write_text(json.dumps(entries))
    try:
        case = read_case(root)
    except InputError as error:
        assert error.line().isprintable()
    else:
        assert case.given and set(slugs) <= set(SLUGS.values())
        assert all(file.is_file() for file in (case.slide, case.features, case.rna, case.clinical) if file)


def test_the_months_of_the_unchanged_case_are_the_snapshots(case, output):
    assert end_of(case, output) == 0
    expected = json.loads((Path(__file__).parent / "expected/interf1" / next(output.iterdir()).name).read_text())
    assert months(output) == pytest.approx(expected, rel=1e-3)
