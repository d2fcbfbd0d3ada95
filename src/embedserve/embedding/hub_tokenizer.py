"""Tokenizers of hub models, by the ``tokenizers`` library from a folder's ``tokenizer.json``.

What a caller writes is text: a literal ``</s>`` or ``<|endoftext|>`` in it is spelled out in ordinary
pieces and never becomes the control token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embedserve.embedding.backbones.base import Ids
from embedserve.errors import ModelLoadError, invalid_input


class HubTokenizer:
    """Text to ids, and ids to the sequence that the network was trained on.

    Args:
        folder: holds ``tokenizer.json``.
        end_token: must close every sequence, once; None leaves both ends to the tokenizer's own template.

    Raises:
        ModelLoadError: the ``tokenizers`` library or the file is missing, or the end token is unknown.
    """

    def __init__(self, folder: Path, end_token: str | None = None) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ModelLoadError(
                "this model needs the tokenizers library: run `pip install 'embedserve[torch]'`"
            ) from error
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelLoadError(
                f"{folder} has no tokenizer.json: pull the model again, or write one with "
                "transformers' AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
            )
        try:
            self._tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises a bare Exception
            raise ModelLoadError(f"cannot read {path}: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        if end_token is None:
            self.begin, self.end = self._read_template(path)
        else:
            end = self._tokenizer.token_to_id(end_token)
            if end is None:
                raise ModelLoadError(
                    f"{path} does not know the end token {end_token!r} of the model's recipe"
                )
            self.begin, self.end = (), (int(end),)
        self.special_ids = self._find_special(path)

    def _read_template(self, path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that the template puts before and after a text."""
        inner = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a", add_special_tokens=True).ids
        for at in range(len(whole) - len(inner) + 1):
            if whole[at : at + len(inner)] == inner:
                return tuple(whole[:at]), tuple(whole[at + len(inner) :])
        raise ModelLoadError(f"{path}: the template changes the text it wraps, which is not supported")

    def _find_special(self, path: Path) -> frozenset[int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(int(i) for i, token in added.items() if token.special)

    def encode(self, text: str) -> Ids:
        """(n,) content ids, without special tokens."""
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)

    def encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        """:meth:`encode` for each text, on the library's own threads."""
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, np.int32) for one in encoded]

    def piece(self, token_id: int) -> str:
        """The vocabulary piece; empty for an id without one."""
        return str(self._tokenizer.id_to_token(token_id) or "")

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are dropped.

        Raises:
            EmbedserveError: an id outside the vocabulary.
        """
        size = self._tokenizer.get_vocab_size()
        if outside := [token for token in ids if not 0 <= token < size]:
            raise invalid_input(
                f"token id {outside[0]} is outside the served model's vocabulary of {size}: send text, "
                "or ids of that vocabulary"
            )
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    @property
    def special_count(self) -> int:
        """Special tokens a sequence carries besides its text."""
        return len(self.begin) + len(self.end)

    def wrap(self, ids: Ids, max_tokens: int) -> tuple[Ids, int]:
        """The sequence for content ids: cut to fit, then closed by the end token.

        Args:
            ids: (n,) content ids, the prompt's included.
            max_tokens: longest sequence, special tokens included.

        Returns:
            The sequence, and how many content ids were cut off its end.
        """
        room = max_tokens - self.special_count
        kept = ids[:room]
        sequence = np.concatenate([self.begin, kept, self.end]).astype(np.int32)
        return sequence, len(ids) - len(kept)
