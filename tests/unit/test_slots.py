"""Slots and rows: one holder each, the lowest first, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gary.engine.slots import SlotTable


def test_lowest_first() -> None:
    """What is freed is taken again before anything higher, so that the front of the cache stays dense."""
    table = SlotTable(slots=4, rows=8)
    assert [table.allocate(2), table.allocate(1), table.allocate(2)] == [(0, (0, 1)), (1, (2,)), (2, (3, 4))]
    table.free(1)
    table.free(0)
    assert table.allocate(2) == (0, (0, 1))
    assert table.allocate(2) == (1, (2, 5))


@pytest.mark.parametrize(("slots", "rows"), [(1, 4), (2, 3)], ids=["slots", "rows"])
def test_refusal_takes_nothing(slots: int, rows: int) -> None:
    """Whichever is exhausted, None changes no count."""
    table = SlotTable(slots, rows)
    assert table.allocate(2) is not None
    before = (table.free_slots, table.free_rows)
    assert table.allocate(2) is None
    assert (table.free_slots, table.free_rows) == before


def test_freeing_twice_is_our_bug() -> None:
    """A slot that nobody holds cannot be given back: its rows would be handed out twice."""
    table = SlotTable(slots=2, rows=2)
    table.allocate(1)
    table.free(0)
    with pytest.raises(AssertionError, match="slot 0 is not taken"):
        table.free(0)


@given(st.integers(1, 6), st.integers(1, 9), st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
def test_one_holder_each(slots: int, rows: int, history: list[tuple[bool, int]]) -> None:
    """After any history no row has two holders, the counts are right, and all that was freed can be had again."""
    table = SlotTable(slots, rows)
    held: dict[int, tuple[int, ...]] = {}
    for allocate, number in history:
        if allocate:
            needed = 1 + number % 2
            room = table.allocate(needed)
            assert (room is None) == (len(held) == slots or needed > rows - sum(map(len, held.values())))
            if room is not None:
                assert room[0] not in held
                assert len(room[1]) == needed
                held[room[0]] = room[1]
        elif held:
            slot = sorted(held)[number % len(held)]
            table.free(slot)
            del held[slot]
        taken = [row for of_slot in held.values() for row in of_slot]
        assert len(taken) == len(set(taken))
        assert set(taken) <= set(range(rows))
        assert set(held) <= set(range(slots))
        assert (table.free_slots, table.free_rows) == (slots - len(held), rows - len(taken))
