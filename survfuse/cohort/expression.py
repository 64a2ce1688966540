"""Expression of many patients, kept as numbers while their files are read."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from survfuse.inputs.expression import raw_expression
from survfuse.runtime.arrays import Floats, Rows
from survfuse.runtime.errors import InputError, brief
from survfuse.runtime.log import listing


class ExpressionRows:
    """Patients' expression, added one patient at a time; the parsed files are not kept."""

    def __init__(self) -> None:
        self._column: dict[str, int] = {}  # gene → its column, numbered in the order in which genes appear
        self._rows: list[tuple[Rows, Floats]] = []  # columns and values of each patient

    def add(self, expression: Mapping[str, Any]) -> None:
        """Add one patient's gene → value, negative ones too; raises InputError that names genes with other values."""
        if not expression:
            raise InputError("expected expression values, found none")
        try:
            values = raw_expression(expression, tuple(expression), negative=True)
        except InputError:
            genes = _unusable(expression)
            gene = next(iter(genes))
            found = f"{brief(expression[gene], 40)} of {brief(gene)}"
            raise InputError(listing(genes.values()), "genes whose values are not finite numbers", found) from None
        columns = np.array([self._column.setdefault(gene, len(self._column)) for gene in expression], dtype=np.int64)
        if self._rows and np.array_equal(columns, self._rows[-1][0]):
            columns = self._rows[-1][0]  # shared: usually all patients have the same genes in the same order
        self._rows.append((columns, values))

    def matrix(self) -> tuple[tuple[str, ...], Floats]:
        """Genes [G], sorted, and values [n, G] in the order of adding; NaN where a patient lacks a gene."""
        genes = tuple(sorted(self._column))
        sorted_column = np.empty(len(genes), dtype=np.int64)
        sorted_column[[self._column[gene] for gene in genes]] = np.arange(len(genes))
        matrix = np.full((len(self._rows), len(genes)), np.nan)
        for row, (columns, values) in enumerate(self._rows):
            matrix[row, sorted_column[columns]] = values
        return genes, matrix


def _unusable(expression: Mapping[str, Any]) -> dict[str, str]:
    """Each gene that has an unusable value → what is wrong with it."""
    wrong = {}
    for gene, value in expression.items():
        try:
            raw_expression({gene: value}, (), negative=True)
        except InputError as error:
            wrong[gene] = str(error)
    return wrong
