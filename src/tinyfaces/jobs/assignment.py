"""Which rows go with which columns, so that the sum of their weights is the largest there is."""

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]


def heaviest_pairs(weights: Matrix) -> list[tuple[int, int]]:
    """The pairs of rows and columns with the largest sum of weights; each row and each column in one pair at most.

    Args:
        weights: (N, M), 0 or more. Pairs of weight 0 are left out.

    Returns:
        Row and column of each pair, by row.
    """
    linked = weights > 0
    alone = linked & (linked.sum(axis=1) == 1)[:, None] & (linked.sum(axis=0) == 1)
    pairs: list[tuple[int, int]] = [(int(row), int(column)) for row, column in np.argwhere(alone)]
    for rows, columns in _groups(linked & ~alone):
        if len(rows) == 1 or len(columns) == 1:
            row, column = np.unravel_index(weights[np.ix_(rows, columns)].argmax(), (len(rows), len(columns)))
            pairs.append((rows[row], columns[column]))
            continue
        part = weights[np.ix_(rows, columns)]
        chosen = _cheapest(part.max() - part) if len(rows) <= len(columns) else _inverted(_cheapest((part.max() - part).T))
        pairs += [(rows[row], columns[column]) for row, column in chosen if part[row, column] > 0]
    return sorted(pairs)


def _groups(linked: npt.NDArray[np.bool_]) -> list[tuple[list[int], list[int]]]:
    """Rows and columns that are linked with each other, directly or through others, and with no others."""
    groups = []
    open_rows = np.asarray(linked.any(axis=1))
    while open_rows.any():
        rows = np.zeros(len(linked), np.bool_)
        rows[open_rows.argmax()] = True
        while True:
            columns = linked[rows].any(axis=0)
            more = np.asarray(linked[:, columns].any(axis=1))
            if (more == rows).all():
                break
            rows = more
        open_rows &= ~rows
        groups.append((np.flatnonzero(rows).tolist(), np.flatnonzero(columns).tolist()))
    return groups


def _cheapest(costs: Matrix) -> list[tuple[int, int]]:
    """The cheapest pairs, one for each row, by the Hungarian method: rows are added one by one, each along the cheapest path of
    exchanges. costs: (N, M) with N <= M."""
    count, width = costs.shape
    row_price, column_price = np.zeros(count), np.zeros(width)
    row_of = np.full(width, -1)
    for start in range(count):
        slack = np.full(width, np.inf)
        came_from = np.full(width, -1)  # the column before it on the path
        done = np.zeros(width, np.bool_)
        row, column = start, -1
        while True:
            reduced = costs[row] - row_price[row] - column_price
            better = ~done & (reduced < slack)
            slack[better] = reduced[better]
            came_from[better] = column
            column = int(np.where(done, np.inf, slack).argmin())
            step = slack[column]
            row_price[start] += step
            row_price[row_of[done]] += step
            column_price[done] -= step
            slack[~done] -= step
            done[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
        while column >= 0:
            before = int(came_from[column])
            row_of[column] = start if before < 0 else row_of[before]
            column = before
    return sorted((int(row_of[column]), int(column)) for column in np.flatnonzero(row_of >= 0))


def _inverted(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(row, column) for column, row in pairs]
