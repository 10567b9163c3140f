"""Estimates of the time that a batch takes, from those of earlier batches."""

from __future__ import annotations

#: Weight of the last batch in the estimate.
WEIGHT = 0.5


class BatchTimes:
    """Seconds that batches take, by the power of two of their number of rows.

    One thread at a time adds times; any may read estimates meanwhile.
    """

    def __init__(self) -> None:
        #: Seconds per row, by the bit length of the number of rows.
        self._per_row: dict[int, float] = {}

    def add(self, rows: int, seconds: float) -> None:
        """Adds the time of a batch."""
        size, per_row = rows.bit_length(), seconds / max(rows, 1)
        before = self._per_row.get(size, per_row)
        self._per_row[size] = before + WEIGHT * (per_row - before)

    def expected(self, rows: int) -> float:
        """Returns the expected time of a batch of `rows` rows, in seconds; 0 before the first batch.

        For a size that wasn't seen, that of the next smaller one counts for each row, or else of the next larger one:
        larger batches take less for each row.
        """
        size = rows.bit_length()
        per_row = self._per_row.get(size)
        if per_row is None and self._per_row:
            known = tuple(self._per_row)
            smaller = max((one for one in known if one < size), default=0)
            per_row = self._per_row[smaller or min(known)]
        return rows * (per_row or 0.0)
