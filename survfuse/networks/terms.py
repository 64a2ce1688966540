"""Names of a risk's additive terms, by the modalities that each depends on."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from survfuse.tasks.modalities import all_pairs

TIMES = " × "


@dataclass(frozen=True)
class Term:
    """An additive part of a network's risk: a function of ``parts``, which are modalities or terms of them."""

    parts: tuple["str | Term", ...]
    label: str = ""  # a name to use instead of one made of the parts

    @property
    def modalities(self) -> frozenset[str]:
        """The modalities that it depends on.

        >>> sorted(Term((Term(("slide", "rna")), Term(("slide", "clinical")))).modalities)
        ['clinical', 'rna', 'slide']
        """
        return frozenset().union(*({part} if isinstance(part, str) else part.modalities for part in self.parts))

    def name(self, given: Container[str]) -> str | None:
        """The term's name for a case that has the modalities ``given``; None if it depends on none of them.

        A modality that a case lacks is replaced by a constant, so the term is not named after it.

        >>> Term(("slide", "rna")).name({"slide", "rna"})
        'slide × rna'
        >>> Term(("slide", "rna")).name({"slide"})
        'slide'
        >>> Term((Term(("slide", "rna")), Term(("slide", "clinical")))).name({"slide", "rna"})
        '(slide × rna) × slide'
        >>> Term(("clinical",)).name({"slide"}) is None
        True
        """
        names = [part if isinstance(part, str) else part.name(given) for part in self.parts]
        shown = list(dict.fromkeys(name for name in names if name is not None and (TIMES in name or name in given)))
        if not shown:
            return None
        if self.label or len(shown) == 1:
            return self.label or shown[0]
        return TIMES.join(f"({name})" if TIMES in name else name for name in shown)


def in_order(names: Iterable[str], modalities: Sequence[str]) -> list[str]:
    """Distinct term ``names``: modalities first, then their pairs, in the task's order; then the rest as they come.

    >>> in_order(["rna × clinical", "residual", "rna", "slide"], ("slide", "rna", "clinical"))
    ['slide', 'rna', 'rna × clinical', 'residual']
    """
    known = [*modalities, *(TIMES.join(pair) for pair in all_pairs(modalities))]
    distinct = list(dict.fromkeys(names))
    return [name for name in known if name in distinct] + [name for name in distinct if name not in known]


def ascii_name(name: str) -> str:
    """A term's name in ASCII, as tables write it.

    >>> ascii_name("slide × rna")
    'slide_x_rna'
    """
    return name.replace(TIMES, "_x_")
