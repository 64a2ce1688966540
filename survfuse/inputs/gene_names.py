"""Human genes by any of their names: approved symbols, previous ones, aliases, Ensembl ids, Excel's dates.

Names are those of the HUGO Gene Nomenclature Committee (HGNC), in a table that the package carries; its first lines
state its source and date.
"""

import gzip
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).with_name("gene_names.tsv.gz")
# How a name was found; the order of a log line.
SYMBOL, PREVIOUS, ALIAS, ENSEMBL, DATE, CASE = (
    "approved symbol",
    "previous symbol",
    "alias",
    "Ensembl id",
    "date of a spreadsheet",
    "letter case",
)

_ENSEMBL = re.compile(r"(ENSG[0-9]{11})(\.[0-9]+)?(_PAR_Y)?")
_WITH_ENTREZ = re.compile(r"([^|?]+)\|[0-9]+")  # TCGA's RSEM: symbol|Entrez id
# Genes whose names spreadsheets take for dates: the beginnings of months, and a day.
_LIKE_DATE = re.compile(
    r"(JAN|FEB|MAR|MARC|MARCH|APR|APRIL|MAY|JUN|JUNE|JUL|JULY|AUG|SEP|SEPT|OCT|NOV|DEC)-?([0-9]{1,2})"
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_MONTH = re.compile(r"([0-9]{1,2})[- ]([a-z]{3,9})\.?")
_MONTH_DAY = re.compile(r"([a-z]{3,9})\.?[- ]([0-9]{1,2})")
_ISO = re.compile(r"[0-9]{4}-([0-9]{2})-([0-9]{2})([ T]00:00(:00)?)?")
_SLASHED = re.compile(r"([0-9]{1,2})/([0-9]{1,2})(/[0-9]{2,4})?")

Date = tuple[int, int]  # month, day


class Found(NamedTuple):
    """The gene that a name stands for."""

    symbol: str  # approved
    how: str  # SYMBOL, PREVIOUS, …


@dataclass(frozen=True)
class GeneNames:
    """Names → approved symbols. A name that two genes claim is nobody's: it is never guessed.

    Only an approved symbol is its gene's whatever others claim. A date is first one of symbols, present and previous
    ones: files are named by these, hardly ever by aliases.
    """

    source: str  # of the table
    date: str
    symbols: frozenset[str]
    ensembl: Mapping[str, frozenset[str]]  # id → approved symbols, as are the next three
    other: Mapping[str, frozenset[str]]  # previous symbols and aliases
    dates: Mapping[Date, frozenset[str]]
    upper: Mapping[str, frozenset[str]]  # symbols in upper case
    previous: frozenset[str]  # those of ``other`` that were symbols

    def find(self, name: str) -> Found | None:
        """The gene that ``name`` stands for; None if there is none, or more than one.

        >>> names = gene_names()
        >>> names.find("TP53"), names.find("ENSG00000141510.18").symbol, names.find("SEPT9").symbol
        (Found(symbol='TP53', how='approved symbol'), 'TP53', 'SEPTIN9')
        >>> names.find("9-Sep").symbol, names.find("1-Mar"), names.claimants("1-Mar")
        ('SEPTIN9', None, ('MARCHF1', 'MTARC1'))
        """
        claimed = self._claimed(name)
        return Found(*claimed[0], claimed[1]) if claimed is not None and len(claimed[0]) == 1 else None

    def claimants(self, name: str) -> tuple[str, ...]:
        """The approved symbols of the genes that claim ``name``, sorted; empty if none does."""
        claimed = self._claimed(name)
        return claimed[0] if claimed is not None else ()

    def _claimed(self, name: str) -> tuple[tuple[str, ...], str] | None:
        """The genes that claim a name in the first way in which any does, and that way."""
        text = name.strip()
        entrez = _WITH_ENTREZ.fullmatch(text)
        text = entrez[1] if entrez else text
        if text in self.symbols:
            return (text,), SYMBOL
        identified = _ENSEMBL.fullmatch(text)
        ways = (
            (self.ensembl.get(identified[1]) if identified else None, ENSEMBL),
            (self.other.get(text), PREVIOUS if text in self.previous else ALIAS),
            (self._on(text), DATE),
            (self.upper.get(text.upper()), CASE),
        )
        return next(((tuple(sorted(genes)), how) for genes, how in ways if genes), None)

    def _on(self, text: str) -> frozenset[str]:
        """The genes that a spreadsheet makes the date ``text`` of."""
        return frozenset().union(*(self.dates.get(date, frozenset()) for date in _dates(text)))


@cache
def gene_names() -> GeneNames:
    """The names in the package's table."""
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        source, date = (file.readline().removeprefix("# ").strip() for _ in range(2))
        file.readline()  # the heading: symbol, ensembl, previous, aliases
        rows = [line.rstrip("\n").split("\t") for line in file]
    symbols = [row[0] for row in rows]
    ensembl, previous, aliases = (_by_name((row[0], row[place].split("|")) for row in rows) for place in (1, 2, 3))
    dates = _by_date(aliases) | _by_date({**previous, **{symbol: frozenset({symbol}) for symbol in symbols}})
    upper = _by_name((symbol, [symbol.upper()]) for symbol in symbols)
    other = {name: aliases.get(name, frozenset()) | previous.get(name, frozenset()) for name in {**aliases, **previous}}
    return GeneNames(source, date, frozenset(symbols), ensembl, other, dates, upper, frozenset(previous))


@lru_cache(maxsize=16)
def other_names(names: tuple[str, ...], wanted: tuple[str, ...]) -> Mapping[str, str]:
    """Those of ``wanted`` genes that one of ``names`` stands for under another name → that name.

    A gene that several of ``names`` stand for is left out.

    >>> other_names(("SEPT9", "ENSG00000141510.18", "AARS", "AARS1P"), ("SEPTIN9", "TP53", "AARS1"))
    {'SEPTIN9': 'SEPT9', 'TP53': 'ENSG00000141510.18', 'AARS1': 'AARS'}
    """
    table, own = gene_names(), dict[str, list[str]]()
    for name in names:
        if (found := table.find(name)) is not None:
            own.setdefault(found.symbol, []).append(name)
    symbols = {gene: found.symbol for gene in wanted if (found := table.find(gene)) is not None}
    return {gene: own[symbol][0] for gene, symbol in symbols.items() if len(own.get(symbol, ())) == 1}


def _by_name(genes: Iterable[tuple[str, list[str]]]) -> dict[str, frozenset[str]]:
    """Name → the symbols of the genes that have it."""
    found: dict[str, frozenset[str]] = {}
    for symbol, names in genes:
        for name in filter(None, names):
            found[name] = found.get(name, frozenset()) | {symbol}
    return found


def _by_date(names: Mapping[str, frozenset[str]]) -> dict[Date, frozenset[str]]:
    """The date that a spreadsheet makes of a name → the symbols of the genes that have such a name."""
    found: dict[Date, frozenset[str]] = {}
    for name, genes in names.items():
        if match := _LIKE_DATE.fullmatch(name.upper()):
            date = _MONTHS.index(match[1][:3].lower()) + 1, int(match[2])
            found[date] = found.get(date, frozenset()) | genes
    return found


def _dates(text: str) -> list[Date]:
    """The dates that ``text`` can be read as, in the forms that spreadsheets write.

    >>> _dates("1-Mar"), _dates("Sep-09"), _dates("2023-03-02 00:00:00"), _dates("3/9")
    ([(3, 1)], [(9, 9)], [(3, 2)], [(3, 9), (9, 3)])
    """
    lower = text.lower()
    if match := _DAY_MONTH.fullmatch(lower) or _MONTH_DAY.fullmatch(lower):
        month, day = (match[2], match[1]) if match[1].isdecimal() else (match[1], match[2])
        return [(_MONTHS.index(month[:3]) + 1, int(day))] if month[:3] in _MONTHS else []
    if match := _ISO.fullmatch(text):
        return [(int(match[1]), int(match[2]))]
    if match := _SLASHED.fullmatch(text):
        first, second = int(match[1]), int(match[2])
        return list(dict.fromkeys([(first, second), (second, first)]))
    return []
