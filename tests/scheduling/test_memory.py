"""Who may hold memory: large requests leave room for small ones, one owner for the next, bulk for all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedserve.errors import EmbedserveError
from embedserve.scheduling.memory import Admission, Hold

MB = 2**20
LIMIT = 64 * MB


def refusal(hold: Hold, size: int) -> EmbedserveError:
    with pytest.raises(EmbedserveError) as caught:
        hold.grow(size)
    return caught.value


def test_a_large_request_leaves_room_for_its_own_key_and_for_others() -> None:
    admission = Admission(LIMIT)
    admission.hold(owner="a").grow(50 * MB)
    assert refusal(admission.hold(owner="a"), 2 * MB).status == 503
    admission.hold(owner="a").grow(MB // 2)  # a query of the same key
    admission.hold(owner="b").grow(5 * MB)
    assert refusal(admission.hold(owner="b"), 2 * MB).status == 503


def test_what_never_fits_is_told_so_and_what_does_not_fit_now_when_to_come_back() -> None:
    admission = Admission(LIMIT, lambda lane: 7.0)
    never = refusal(admission.hold(), LIMIT)
    assert (never.status, never.retry_after) == (400, None)
    assert "EMBEDSERVE_MEMORY_LIMIT_MB" in never.message
    admission.hold(owner="a").grow(40 * MB)
    now = refusal(admission.hold(owner="b"), 40 * MB)
    assert (now.status, now.retry_after) == (503, 7.0)
    bulk = refusal(admission.hold(lane="bulk", owner="c"), 30 * MB)
    assert bulk.status == 429
    assert admission.refused == 3


def test_bulk_holds_half_at_most() -> None:
    admission = Admission(LIMIT)
    for owner in "ab":
        admission.hold(lane="bulk", owner=owner).grow(15 * MB)
    assert refusal(admission.hold(lane="bulk", owner="c"), 4 * MB).status == 429
    admission.hold(owner="c").grow(4 * MB)


def test_a_closed_hold_does_not_grow() -> None:
    admission = Admission(LIMIT)
    with admission.hold() as hold:
        hold.grow(MB)
        assert admission.held_bytes == MB
    assert admission.held_bytes == 0
    assert refusal(hold, 1).status == 499
    hold.shrink(5)
    hold.close()
    assert admission.held_bytes == 0


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["grow", "shrink", "close"]), st.integers(0, 40 * MB)),
        max_size=60,
    )
)
def test_the_books_balance_whatever_happens(steps: list[tuple[int, str, int]]) -> None:
    admission = Admission(LIMIT)
    holds = [admission.hold(lane="bulk" if i == 5 else "interactive", owner="ab"[i % 2]) for i in range(6)]
    for number, what, size in steps:
        hold = holds[number]
        try:
            if what == "grow":
                hold.grow(size)
            elif what == "shrink":
                hold.shrink(min(size, hold.size))
            else:
                hold.close()
        except EmbedserveError:
            pass
        assert admission.held_bytes == sum(hold.size for hold in holds) <= LIMIT
        assert all(hold.size >= 0 for hold in holds)
    for hold in holds:
        hold.close()
    assert admission.held_bytes == 0
    admission.hold(owner="a").grow(LIMIT // 2)
