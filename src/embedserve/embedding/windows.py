"""How a text longer than the network's window is cut into several windows."""

from __future__ import annotations

import numpy as np

from embedserve.embedding.backbones.base import Ids


def cut_windows(ids: Ids, prefix_ids: Ids, bos: int, eos: int, window_size: int) -> list[Ids]:
    """The windows of one text: each is ``bos`` + prefix + a slice of the text + ``eos``.

    The slices do not overlap, cover the text in order and differ by at most one token in length, so no
    window is a tiny remainder whose vector would say little.

    Args:
        ids: (n,) content ids of the text, already cut to the longest input the service accepts.
        prefix_ids: (p,) ids of the prompt, repeated in every window.
        bos: id of the token that opens a sequence.
        eos: id of the token that closes it.
        window_size: longest sequence the network reads, special tokens included.

    Returns:
        At least one window (a text without tokens still gives ``bos`` + prefix + ``eos``).

    Raises:
        ValueError: the prefix leaves no room for text.
    """
    room = window_size - len(prefix_ids) - 2
    if room < 1:
        raise ValueError(
            f"a prefix of {len(prefix_ids)} tokens leaves no room in a window of {window_size}; shorten it"
        )
    count = max(1, -(-len(ids) // room))
    parts = [ids] if count == 1 else np.array_split(ids, count)
    return [_frame(part, prefix_ids, bos, eos) for part in parts]


def _frame(part: Ids, prefix_ids: Ids, bos: int, eos: int) -> Ids:
    window = np.empty(len(part) + len(prefix_ids) + 2, np.int32)
    window[0] = bos
    window[1 : 1 + len(prefix_ids)] = prefix_ids
    window[1 + len(prefix_ids) : -1] = part
    window[-1] = eos
    return window
