"""Which slots and cache rows are taken, as integers. It knows neither requests nor tensors.

Every row is as long as the model's window, so memory is counted in rows: whoever holds its rows can run to its end.
The lowest numbers go first, so that a half-empty engine works on the front of its buffers and the same history gives
the same layout.
"""

from __future__ import annotations

from heapq import heappop, heappush


class SlotTable:
    """Slots (a request's state) and rows (its part of the key-value cache), each held by at most one request.

    Args:
        slots: requests that may run at once.
        rows: rows of the cache; a request holds one or two.
    """

    def __init__(self, slots: int, rows: int) -> None:
        assert slots >= 1, f"at least one slot, not {slots}"
        assert rows >= 1, f"at least one row, not {rows}"
        self.slots = slots
        self.rows = rows
        self._free_slots = list(range(slots))  # both are heaps: the lowest is first
        self._free_rows = list(range(rows))
        self._held: dict[int, tuple[int, ...]] = {}  # rows by slot

    @property
    def free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def free_rows(self) -> int:
        return len(self._free_rows)

    def allocate(self, rows_needed: int) -> tuple[int, tuple[int, ...]] | None:
        """Takes the lowest free slot and rows, these ascending; takes nothing and is None when either is short."""
        assert rows_needed >= 1, f"a request needs at least one row, not {rows_needed}"
        if not self._free_slots or rows_needed > len(self._free_rows):
            return None
        slot = heappop(self._free_slots)
        rows = tuple(heappop(self._free_rows) for _ in range(rows_needed))
        self._held[slot] = rows
        return slot, rows

    def free(self, slot: int) -> None:
        """Gives a slot and its rows back."""
        assert slot in self._held, f"slot {slot} is not taken"
        for row in self._held.pop(slot):
            heappush(self._free_rows, row)
        heappush(self._free_slots, slot)
