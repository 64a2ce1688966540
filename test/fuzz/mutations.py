"""Inputs made from sound ones by small changes; the same for the same seed."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

from survfuse.runtime.files import is_number

_EDGES = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, -1e308, 1e-320, 2**63, 10**400, float("nan"), float("inf"), "", " ",
    "0", "1.5", "-1", "nan", "1_0", "1,5", "x" * 5000, "\ud800", "\0", "../x", "/etc/passwd", [], {}, [[]], [0],
    {"": {}}, [None] * 50,
)  # fmt: skip


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """Flipped bits, edge values, stretches cut, zeroed, repeated or moved, truncation."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        kind, place = chance.randrange(8), chance.randrange(len(changed))
        length = min(chance.choice((1, 4, 16, 256, 4096)), len(changed) - place)
        if kind <= 1:
            changed[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            changed[place] = chance.randrange(256)
        elif kind == 3:
            form = chance.choice("<>") + chance.choice("HIQ")
            edge = chance.choice(_EDGES) % 2 ** (8 * struct.calcsize(form))
            changed[place : place + struct.calcsize(form)] = struct.pack(form, edge)
        elif kind == 4:
            changed[place : place + length] = bytes(length)
        elif kind == 5:
            del changed[place : place + length]
        elif kind == 6:
            start = chance.randrange(len(changed))
            changed[place:place] = changed[start : start + length]
        else:
            del changed[place:]
    return bytes(changed)


def changed_head(data: bytes, chance: random.Random, most: int = 4096) -> bytes:
    """The same within the first bytes alone, where formats keep what they say of themselves."""
    return changed_bytes(data[:most], chance) + data[most:]


def changed_tags(data: bytes, chance: random.Random) -> bytes:
    """A classic TIFF with entries of its directories edited: number, type, count, value, or the next directory."""
    changed = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    directories = []
    (offset,) = struct.unpack_from(order + "I", data, 4)
    while offset and offset + 2 <= len(data) and len(directories) < 20:
        (entries,) = struct.unpack_from(order + "H", data, offset)
        directories.append((offset, entries))
        (offset,) = struct.unpack_from(order + "I", data, offset + 2 + 12 * entries)
    for _ in range(chance.choice((1, 1, 2, 3))):
        offset, entries = chance.choice(directories)
        place = offset + 2 + 12 * chance.randrange(entries)
        kind = chance.randrange(6)
        if kind == 0:
            struct.pack_into(order + "H", changed, place, chance.choice((*range(254, 340), 330, 347, 700, 34675)))
        elif kind == 1:
            struct.pack_into(order + "H", changed, place + 2, chance.randrange(20))
        elif kind == 2:
            struct.pack_into(order + "I", changed, place + 4, chance.choice(_EDGES))
        elif kind == 3:
            following = chance.choice((0, chance.choice(directories)[0], chance.randrange(len(data))))
            struct.pack_into(order + "I", changed, offset + 2 + 12 * entries, following)
        else:
            struct.pack_into(order + "I", changed, place + 8, chance.choice((*_EDGES, chance.randrange(len(data)))))
    return bytes(changed)


# What a TIFF states of itself, and what it may state: orientation, photometric interpretation, resolution's unit,
# subsampling; then sizes, to which whole tiles of padding are added.
_STATED = {274: range(11), 262: (0, 1, 2, 3, 4, 5, 6, 8, 32803), 296: range(5), 530: (0, 1, 2, 0x10001, 0x20002)}
_SIZES, _RATIONALS, _ESSENTIAL = (256, 257), (282, 283), (256, 257, 258, 259, 262, 277, 322, 323, 324, 325)


def changed_statements(data: bytes, chance: random.Random) -> bytes:
    """A classic TIFF whose first directory states other things of the same pixels; entries it lacks replace others."""
    changed = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    (offset,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, offset)
    places = {}
    for number in range(entries):
        place = offset + 2 + 12 * number
        places[struct.unpack_from(order + "H", data, place)[0]] = place
    for _ in range(chance.choice((1, 1, 2, 3))):
        tag = chance.choice((*_STATED, *_SIZES, *_RATIONALS))
        spare = [number for number in places if number not in _ESSENTIAL]
        place = places.get(tag) or places[chance.choice(spare or list(places))]
        if tag in _STATED:
            value = chance.choice(tuple(_STATED[tag]))
            struct.pack_into(order + "HHI", changed, place, tag, 3, 1)
            struct.pack_into(order + "I" if value > 65535 else order + "HH", changed, place + 8, *_short(value))
        elif tag in _SIZES and tag in places:
            padding = chance.choice((1, 64, 128, 256, 512, 4096))
            struct.pack_into(order + "HHII", changed, place, tag, 4, 1, chance.choice((padding, 500 + padding)))
        elif tag in places:  # a rational elsewhere in the file
            (where,) = struct.unpack_from(order + "I", data, place + 8)
            if where + 8 <= len(data):
                struct.pack_into(order + "II", changed, where, chance.choice(_EDGES), chance.choice(_EDGES))
    return bytes(changed)


def _short(value: int) -> tuple[int, ...]:
    return (value,) if value > 65535 else (value, 0)


def changed_lines(data: bytes, chance: random.Random) -> bytes:
    """A text of lines KEY=VALUE with values replaced, and lines left out, repeated or moved."""
    lines = data.split(b"\n")
    for _ in range(chance.choice((1, 1, 2, 3))):
        place = chance.randrange(len(lines))
        key, equals, _ = lines[place].partition(b"=")
        if equals and chance.random() < 0.7:
            lines[place] = key + equals + chance.choice(_SETTINGS)
        else:
            moved = lines[place] if chance.random() < 0.4 else lines.pop(place)
            lines.insert(chance.randrange(len(lines) + 1), chance.choice((moved, b"", b"[LEVEL]", b"=")))
    return b"\n".join(lines)


_SETTINGS = (
    b"",
    b"0",
    b"1",
    b"-1",
    b"2147483648",
    b"1e300",
    b"nan",
    b"x",
    b"../s.mrxs",
    b"/dev/zero",
    b".",
    b"\xff\xfe",
)


def changed_table(rows: list[list[str]], chance: random.Random) -> bytes:
    """A table as people have it: another separator, blank rows and columns, repeated rows, words, commas, quotes."""
    rows = [list(row) for row in rows]
    for _ in range(chance.choice((1, 1, 2, 4))):
        kind, place = chance.randrange(7), chance.randrange(len(rows))
        if kind == 0:
            rows.insert(place, [""] * chance.choice((0, len(rows[0]), len(rows[0]) + 1)))
        elif kind == 1:
            rows = [[*row, ""] for row in rows]
        elif kind == 2:
            rows.insert(place, list(chance.choice(rows)))
        elif kind == 3 and rows[place]:
            rows[place][chance.randrange(len(rows[place]))] = chance.choice(_CELLS)
        elif kind == 4:
            rows = [["True" if cell == "1" else "FALSE" if cell == "0" else cell for cell in row] for row in rows]
        elif kind == 5:
            rows = [[cell.replace(".", ",") for cell in row] for row in rows]
        else:
            rows[place] = rows[place][: chance.randrange(len(rows[place]) + 1)]
    separator, end = chance.choice(",,,;\t"), chance.choice(("\n", "\n", "\r\n", "\r"))
    quote = chance.choice(("", "", '"'))
    text = "".join(separator.join(f"{quote}{cell}{quote}" for cell in row) + end for row in rows)
    data = text.encode(chance.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")), errors="replace")
    return changed_bytes(data, chance) if chance.random() < 0.2 else data


_CELLS = (
    "",
    " ",
    "NA",
    "Not Available",
    "'--",
    ">90",
    "12,5",
    "yes",
    "1.0",
    "-1",
    "1e400",
    "nan",
    '"',
    "ü",
    "x" * 9000,
)


def changed_json(value: Any, chance: random.Random) -> Any:
    """A JSON value with some of its nodes replaced, removed, renamed, repeated or nested."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.choice((1, 1, 2, 3))):
        holder = value
        while True:
            if not isinstance(holder, dict | list) or not holder:
                break
            key = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
            if not isinstance(holder[key], dict | list) or not holder[key] or chance.random() < 0.3:
                _change_entry(holder, key, chance)
                break
            holder = holder[key]
    return value


def _change_entry(holder: Any, key: Any, chance: random.Random) -> None:
    kind = chance.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(("", "x", str(key).upper(), "\ud800", "\x1b[31m"))] = holder.pop(key)
    elif kind == 2:
        holder[key] = [holder[key]] if chance.random() < 0.5 else {"value": holder[key]}
    elif kind == 3:
        other = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 4 and is_number(holder[key]):
        holder[key] = float(holder[key]) * chance.choice((-1, 0, 10, 1e-9, 1e9, 1e300))
    else:
        holder[key] = chance.choice(_VALUES)


def json_bytes(value: Any, chance: random.Random) -> bytes:
    """JSON text of ``changed_json``, or text that has been changed itself."""
    kind = chance.randrange(10)
    text = json.dumps(changed_json(value, chance) if kind < 6 else value)
    data = text.encode("utf-8", errors="surrogatepass")
    if kind == 6:
        return b"\xef\xbb\xbf" + data
    if kind == 7:
        return text.encode(chance.choice(("utf-16", "utf-32", "utf-8-sig")), errors="surrogatepass")
    return changed_bytes(data, chance) if kind > 7 else data


Mutation = Callable[[bytes, random.Random], bytes]
