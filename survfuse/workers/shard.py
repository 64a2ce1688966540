"""One part of a work list, for machines that divide it among themselves without speaking to each other."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from survfuse.runtime.errors import InputError, brief

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """Part ``number``, from 1, of ``of`` parts. Which part a name is in depends on the name and ``of`` alone."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that ``text`` spells; raises InputError for anything but I/N with 1 ≤ I ≤ N.

        >>> Shard.parse("2/8")
        Shard(number=2, of=8)
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise InputError(f"shard: expected I/N with I from 1 to N, such as 2/8, found {brief(text, 40)}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, name: str) -> bool:
        """Whether ``name`` belongs to this shard: each name belongs to one of the ``of``."""
        digest = hashlib.sha256(name.encode("utf-8", errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1


def part_of(items: Iterable[T], shard: Shard | None, name: Callable[[T], str]) -> list[T]:
    """The ``items`` of the shard, in their order, each known by its ``name``; all of them without a shard."""
    return [item for item in items if shard is None or shard.holds(name(item))]
