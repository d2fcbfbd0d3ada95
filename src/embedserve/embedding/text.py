"""What a text is, for every engine: the one place where the same text spelled otherwise becomes the same.

Every pipeline, bundled, hub or remote, passes each text and instruction through :func:`normalise` before it
does anything else. No door does any of this, so no door can do it otherwise:

- *Surrogates.* JSON and Python let a string hold halves of UTF-16 pairs. Two halves that belong together
  are the character they spell, as for every JSON parser; a half alone is one U+FFFD. What is left has a
  UTF-8 form, which is what tokenizers and other servers take.
- *Composition.* A letter and its marks are one text however they are stored (NFC, NFD, a mixture): NFC.

Control characters (NUL too), line ends and other white space stay here and are the tokenizer's business,
since models were trained on what their own makes of them. The bundled one drops controls and reads any run of
white space, whichever line ends it holds, as one space; a hub model's does as its publisher made it.
"""

from __future__ import annotations

import unicodedata
from typing import Final

RULE: Final = "surrogates mended, then NFC"
"""Part of every model's fingerprint: another rule is another vector for some text."""


def normalise(text: str) -> str:
    """The text without surrogates, composed. Leaves a text in NFC as it is; its own fixed point."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", mend_surrogates(text))


def mend_surrogates(text: str) -> str:
    """The text with pairs of surrogates joined and each lone one as U+FFFD: always has a UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
