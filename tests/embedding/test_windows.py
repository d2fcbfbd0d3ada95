import numpy as np
import pytest

from embedserve.embedding.windows import cut_windows

pytestmark = pytest.mark.quick
PREFIX = np.array([41, 1294, 12], np.int32)


def cut(n: int, window_size: int = 16) -> list[list[int]]:
    windows = cut_windows(np.arange(100, 100 + n, dtype=np.int32), PREFIX, 0, 2, window_size)
    return [window.tolist() for window in windows]


def test_short_text_is_one_window():
    assert cut(3) == [[0, 41, 1294, 12, 100, 101, 102, 2]]


def test_empty_text_still_has_a_window():
    assert cut(0) == [[0, 41, 1294, 12, 2]]


@pytest.mark.parametrize("n", [11, 12, 22, 23, 100, 8192])
def test_slices_cover_the_text_evenly_and_fit(n):
    windows = cut(n)
    slices = [window[4:-1] for window in windows]
    assert [i for part in slices for i in part] == list(range(100, 100 + n))
    assert max(map(len, windows)) <= 16
    assert max(map(len, slices)) - min(map(len, slices)) <= 1
    assert all(window[:4] == [0, 41, 1294, 12] and window[-1] == 2 for window in windows)


def test_prefix_without_room_names_the_remedy():
    with pytest.raises(ValueError, match="shorten it"):
        cut_windows(np.array([5], np.int32), np.arange(20, dtype=np.int32), 0, 2, 16)
