"""Choose rows so that every two values of any two factors meet at least once: a sample in place of the whole product."""

import itertools
from collections.abc import Sequence
from typing import Any


def pairwise(*factors: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return rows with one value of each factor, greedily few, the same ones on every call.

    A row begins with the first pair that is still missing; each further factor takes the value that adds most pairs.
    """
    columns = range(len(factors))
    missing = {
        (a, x, b, y)
        for a, b in itertools.combinations(columns, 2)
        for x in range(len(factors[a]))
        for y in range(len(factors[b]))
    }
    rows = []
    while missing:
        a, x, b, y = min(missing)
        row = {a: x, b: y}
        for column in sorted((c for c in columns if c not in row), key=lambda c: -len(factors[c])):
            row[column] = max(range(len(factors[column])), key=lambda v: (_gain(row, column, v, missing), -v))
        missing -= {(i, row[i], j, row[j]) for i, j in itertools.combinations(columns, 2)}
        rows.append(tuple(factors[c][row[c]] for c in columns))
    return rows


def _gain(row: dict[int, int], column: int, value: int, missing: set[tuple[int, int, int, int]]) -> int:
    return sum(
        ((other, row[other], column, value) if other < column else (column, value, other, row[other])) in missing
        for other in row
    )
