"""Files read strictly and written whole."""

import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeGuard

from survfuse.runtime.errors import SurvfuseError

LARGEST_JSON = 16 * 2**20  # bytes; 19,359 genes take about half a megabyte
_PIECE = 16 * 2**20  # bytes of a file that are hashed at once
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)


def read_json(path: Path, error: type[SurvfuseError], literals: bool = False) -> object:
    """The JSON value in ``path`` (RFC 8259); a byte-order mark is skipped.

    Raises ``error``, naming the file, for a key that occurs twice, text that is not UTF-8 or not JSON, nesting too deep
    to parse, more than 16 MiB, and anything but a file; also for NaN, Infinity and numbers out of range, unless
    ``literals`` passes these on to the caller.
    """

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) != len(pairs):
            twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            raise error(f"{path.name}: the key {twice[:80]!r} occurs more than once")
        return values

    def refused(literal: str) -> NoReturn:
        raise error(f"{path.name}: not usable JSON ({literal} is not a finite number)")

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refused(digits[:20])

    try:
        text = _content(path, error).decode("utf-8-sig")
        if literals:
            return json.loads(text, object_pairs_hook=unique)
        return json.loads(text, object_pairs_hook=unique, parse_constant=refused, parse_float=finite)
    except UnicodeDecodeError as cause:
        raise error(f"{path.name}: not UTF-8 text (byte {cause.start})") from cause
    except json.JSONDecodeError as cause:
        what, where = cause.msg.removesuffix(" at"), f"line {cause.lineno}, column {cause.colno}"
        raise error(f"{path.name}: not valid JSON ({what if text else 'the file is empty'}; {where})") from cause
    except RecursionError as cause:
        raise error(f"{path.name}: not usable JSON (nested too deeply)") from cause
    except ValueError as cause:  # Python limits the digits of an integer
        raise error(f"{path.name}: not usable JSON (a number of too many digits)") from cause
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror or cause})") from cause


def read_object(path: Path, error: type[SurvfuseError], literals: bool = False) -> dict[str, object]:
    """The JSON object in ``path``, read as ``read_json`` reads it; raises ``error`` for any other type of value."""
    value = read_json(path, error, literals)
    if not isinstance(value, dict):
        raise error(f"{path.name}: expected one JSON object, found {json_type(value)}")
    return value


def json_type(value: object) -> str:
    """The JSON name of a parsed value's type, with its article.

    >>> json_type([]), json_type(None), json_type(1.5)
    ('an array', 'null', 'a number')
    """
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a parsed JSON value is a number that a float can hold, neither NaN nor infinite.

    >>> is_number(3), is_number(True), is_number("3"), is_number(10**400)
    (True, False, False, False)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def spelt_number(text: str) -> float | None:
    """The number that ``text`` spells in plain decimal digits, apart from blanks around it; None for anything else.

    Python's ``float`` accepts more: "1_0", "infinity" and the digits of other scripts.

    >>> spelt_number(" 1.5e3"), spelt_number("1_0"), spelt_number("infinity")
    (1500.0, None, None)
    """
    return float(text) if _NUMBER.fullmatch(text := text.strip(" \t\r\n")) else None


def finite_number(value: object) -> float | None:
    """The finite number that a table's cell or a JSON value is or spells; None for anything else.

    >>> finite_number(" 12.5 "), finite_number(3), finite_number("1e400"), finite_number(True)
    (12.5, 3.0, None, None)
    """
    number = spelt_number(value) if isinstance(value, str) else value
    return float(number) if is_number(number) else None


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    # Large pieces: if another thread runs Python meanwhile, this one waits for the interpreter twice a piece.
    piece = memoryview(bytearray(min(path.stat().st_size, _PIECE) or 1))
    with path.open("rb", buffering=0) as file:
        while length := file.readinto(piece):
            digest.update(piece[:length])
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``: renamed to ``path`` if the block succeeds, removed if it fails."""
    temporary = temporary_path(path)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A new path beside ``path``, for a file or folder that is to replace it once it is whole."""
    return path.with_name(_temporary_name(path.name, uuid.uuid4().hex[:8]))


def discard(path: Path) -> None:
    """Remove the file ``path`` and what killed writers of it left beside it, if there is any.

    A folder ``path`` stays: it was moved there whole.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
    for left in path.parent.glob(_temporary_name(glob.escape(path.name), "?" * 8)):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def discard_partial(folder: Path, names: Collection[str]) -> None:
    """Remove what killed writers of files called ``names`` left in ``folder``."""
    for entry in os.scandir(folder):
        found = _TEMPORARY.fullmatch(entry.name)
        if found and found[1] in names:
            Path(entry.path).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def encodable(text: str) -> str:
    r"""``text`` with what UTF-8 cannot spell as escapes: JSON and file names may hold half a character.

    >>> encodable("stage \ud800")
    'stage \\ud800'
    """
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")


def write_json(path: Path, value: object, indent: int | None = 1) -> None:
    """Write ``value`` to ``path`` as JSON, whole or not at all; raises ValueError for NaN and Infinity."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def _content(path: Path, error: type[SurvfuseError]) -> bytes:
    """A file's bytes; raises ``error`` for a file that is too large, and for anything but a file."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a device")
        raise error(f"{path.name}: expected a file, found {kind}")
    if status.st_size > LARGEST_JSON:
        raise error(f"{path.name}: {status.st_size:,} bytes, expected at most {LARGEST_JSON:,}")
    return path.read_bytes()


def _temporary_name(name: str, token: str) -> str:
    return f".{name}.{token}.tmp"
