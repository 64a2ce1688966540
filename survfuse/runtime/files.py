"""Files read strictly and written whole."""

import glob
import hashlib
import json
import math
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from survfuse.runtime.errors import SurvfuseError

_PIECE = 16 * 2**20  # bytes of a file that are hashed at once
LARGEST_JSON = 16 * 2**20  # bytes; 19,359 genes take about half a megabyte
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)


def check_file(path: Path, error: type[SurvfuseError]) -> None:
    """Raise ``error`` where ``path`` is no file."""
    if not path.is_file():
        raise error(f"{path}: no such file")


def read_json(path: Path, error: type[SurvfuseError], literals: bool = False) -> Any:
    """The JSON value in ``path`` (RFC 8259).

    A byte-order mark is passed over. A key that occurs twice, text that is not UTF-8 or not JSON, nesting too deep to
    parse, a file over 16 MiB and anything but a file raise ``error`` naming it; so do NaN, Infinity and numbers
    beyond all range, unless ``literals`` passes them on to a reader that judges them where they stand.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            seen: set[str] = set()
            twice = next(name for name, _ in pairs if name in seen or seen.add(name))
            raise error(f"{path.name}: the key {twice[:80]!r} occurs more than once")
        return values

    def refused(literal: str) -> NoReturn:
        raise error(f"{path.name}: not usable JSON ({literal} is no finite number)")

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refused(digits[:20])

    try:
        text = _bytes(path, error).decode("utf-8-sig")
        strict = {} if literals else {"parse_constant": refused, "parse_float": finite}
        return json.loads(text, object_pairs_hook=unique, **strict)
    except UnicodeDecodeError as cause:
        raise error(f"{path.name}: not UTF-8 text (byte {cause.start})") from cause
    except json.JSONDecodeError as cause:
        what, where = cause.msg.removesuffix(" at"), f"line {cause.lineno}, column {cause.colno}"
        raise error(f"{path.name}: not valid JSON ({what if text else 'the file is empty'}; {where})") from cause
    except RecursionError as cause:
        raise error(f"{path.name}: not usable JSON (nested too deep)") from cause
    except ValueError as cause:  # Python bounds an integer's digits
        raise error(f"{path.name}: not usable JSON (a number of too many digits)") from cause
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror or cause})") from cause


def _bytes(path: Path, error: type[SurvfuseError]) -> bytes:
    """A file's bytes; raises ``error`` for one that is too large, and for what is no file."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "a device")
        raise error(f"{path.name}: expected a file, found {kind}")
    if found.st_size > LARGEST_JSON:
        raise error(f"{path.name}: {found.st_size:,} bytes, expected at most {LARGEST_JSON:,}")
    return path.read_bytes()


def read_object(path: Path, error: type[SurvfuseError], literals: bool = False) -> dict[str, Any]:
    """The JSON object in ``path``, read as ``read_json`` does; any other top-level type raises ``error``."""
    value = read_json(path, error, literals)
    if not isinstance(value, dict):
        raise error(f"{path.name}: expected one JSON object, found {json_type(value)}")
    return value


def json_type(value: Any) -> str:
    """The JSON name of a parsed value's type."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def is_number(value: Any) -> bool:
    """Whether a parsed JSON value is a number that a float can hold, neither NaN nor infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def spelt_number(text: str) -> float | None:
    """The number that ``text`` spells in plain decimal digits, blanks around it aside; None for anything else.

    Narrower than Python's own reading, which takes "1_0", "infinity" and other scripts' digits.
    """
    return float(text) if _NUMBER.fullmatch(text := text.strip(" \t\r\n")) else None


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    # Large pieces: in a thread beside Python that runs, each piece waits for its turn twice.
    piece = memoryview(bytearray(min(path.stat().st_size, _PIECE) or 1))
    with path.open("rb", buffering=0) as file:
        while length := file.readinto(piece):
            digest.update(piece[:length])
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends well, and vanishes otherwise."""
    temporary = path.with_name(_temporary_name(path.name, uuid.uuid4().hex[:8]))
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove ``path``, and what writers of it that were killed left beside it; nothing where nothing is there."""
    path.unlink(missing_ok=True)
    for left in path.parent.glob(_temporary_name(glob.escape(path.name), "?" * 8)):
        left.unlink(missing_ok=True)


def _temporary_name(name: str, token: str) -> str:
    return f".{name}.{token}.tmp"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write ``value`` as JSON, whole or not at all; NaN and Infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")
