"""Files read strictly and written whole."""

import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from survfuse.errors import SurvfuseError

_PIECE = 16 * 2**20  # bytes of a file that are hashed at once
LARGEST_JSON = 64 * 2**20  # bytes; 19,359 genes take about half a megabyte


def check_file(path: Path, error: type[SurvfuseError]) -> None:
    """Raise ``error`` where ``path`` is no file."""
    if not path.is_file():
        raise error(f"{path}: no such file")


def read_json(path: Path, error: type[SurvfuseError]) -> Any:
    """The JSON value in ``path``.

    A byte-order mark is passed over. A key that occurs twice, text that is not UTF-8 or not JSON, nesting
    too deep to parse, and a file over 64 MiB raise ``error`` naming the file.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise error(f"{path.name}: the key {twice[:80]!r} occurs more than once")
        return values

    try:
        if path.stat().st_size > LARGEST_JSON:
            raise error(f"{path.name}: {path.stat().st_size:,} bytes, expected at most {LARGEST_JSON:,}")
        text = path.read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=unique)
    except UnicodeDecodeError as cause:
        raise error(f"{path.name}: not UTF-8 text (byte {cause.start})") from cause
    except json.JSONDecodeError as cause:
        what, where = cause.msg.removesuffix(" at"), f"line {cause.lineno}, column {cause.colno}"
        raise error(f"{path.name}: not valid JSON ({what} at {where})") from cause
    except (RecursionError, ValueError) as cause:
        raise error(f"{path.name}: not usable JSON ({type(cause).__name__})") from cause
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror or cause})") from cause


def read_object(path: Path, error: type[SurvfuseError]) -> dict[str, Any]:
    """The JSON object in ``path``; any other top-level type raises ``error``."""
    value = read_json(path, error)
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
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends well, and vanishes otherwise."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all."""
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write ``value`` as JSON, whole or not at all; NaN and Infinity raise ValueError."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")
