"""What is sold under which name: the limits and prices of the text-embedding models.

Source: the product documents and protocol notes, sections 2.1 and 10 (docs/compatibility.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from embedserve.errors import WRONG_URL, EmbedserveError, invalid_input


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A public model name and what a caller may ask of it.

    Attributes:
        dimensions: sizes a caller may choose, largest first; a single one means that the request's
            ``dimension`` is silently ignored (v1, v2), as the original does.
        max_rows: texts per request in strict mode.
        max_tokens: tokens per text.
        sparse: sparse output is offered.
        instruct: ``instruct`` has an effect.
        cny_per_1k, usd_per_1m: list price of input tokens, None where none is
            published; batch work costs half.
        free_tokens: the free quota of a new account.
    """

    id: str
    dimensions: tuple[int, ...]
    default_dimension: int
    max_rows: int
    max_tokens: int
    sparse: bool
    instruct: bool
    cny_per_1k: float
    usd_per_1m: float | None
    free_tokens: int

    def choose_dimension(self, asked: int | None) -> int:
        """The dimension to answer with; raises EmbedserveError for one that is not offered."""
        if len(self.dimensions) == 1 or asked is None:
            return self.default_dimension
        if asked not in self.dimensions:
            offered = ", ".join(map(str, self.dimensions))
            raise invalid_input(
                f"Value error, dimension {str(asked)[:20]} is not supported by {self.id}, it should be one "
                f"of {offered}.: parameters.dimension"
            )
        return asked


_V4 = (2048, 1536, 1024, 768, 512, 256, 128, 64)

MODELS = MappingProxyType(
    {
        card.id: card
        for card in (
            ModelCard("text-embedding-v4", _V4, 1024, 10, 8192, True, True, 0.0005, 0.07, 1_000_000),
            ModelCard("text-embedding-v3", _V4[2:], 1024, 10, 8192, True, False, 0.0005, 0.07, 1_000_000),
            ModelCard("text-embedding-v2", (1536,), 1536, 25, 2048, False, False, 0.0007, None, 500_000),
            ModelCard("text-embedding-v1", (1536,), 1536, 25, 2048, False, False, 0.0007, None, 500_000),
        )
    }
)

PUBLISHED_RATE_LIMITS = MappingProxyType(
    {
        "text-embedding-v4": (1_800, 1_200_000),
        "text-embedding-v3": (6_000, 24_000_000),
        "text-embedding-v2": (1_800, 1_200_000),
        "text-embedding-v1": (1_800, 1_200_000),
    }
)
"""Requests and tokens a minute of one account. Only v3's (international site) were read at the source; the
others are unconfirmed. Enforced only by a plan that says ``published = true``."""

PUBLISHED_CALL_RATES: Mapping[str, tuple[int, int | None]] = MappingProxyType(
    {
        "files.upload": (180, 3),
        "files.other": (600, 10),
        "batches.create": (1_000, None),
        "batches.get": (1_000, None),
        "batches.cancel": (1_000, None),
        "batches.list": (100, None),
        "tasks.create": (60, 1),
    }
)
"""Calls that embed nothing by themselves: how many a minute, and a second where that is what is published, of
one workspace. ``files.other``: list, get and delete together. Enforced as PUBLISHED_RATE_LIMITS are."""

ASYNC_MODELS = MappingProxyType(
    {
        name: ModelCard(name, (1536,), 1536, 25, 2048, False, False, 0.0007, None, 20_000_000)
        for name in ("text-embedding-async-v1", "text-embedding-async-v2")
    }
)
"""Served by tasks only (files in, files out)."""

MULTIMODAL_MODELS = frozenset(
    {
        "multimodal-embedding-v1",
        "multimodal-embedding-one-peace-v1",
        "qwen3-vl-embedding",
        "qwen2.5-vl-embedding",
        "tongyi-embedding-vision-plus",
        "tongyi-embedding-vision-flash",
    }
)
"""Known names of another kind: refused as the original refuses them at the text endpoint."""


def find_model(name: str, *, tasks: bool = False) -> ModelCard:
    """The card of a model that answers synchronously; with ``tasks``, also of one that only tasks may use.

    Raises:
        EmbedserveError: unknown, or of a kind that this endpoint does not serve; each dialect's own words.
    """
    if card := MODELS.get(name):
        return card
    name = name[:64]
    if tasks and (card := ASYNC_MODELS.get(name)):
        return card
    if name in ASYNC_MODELS:
        raise EmbedserveError(
            "current user api does not support synchronous calls.",
            status=403,
            code="AccessDenied",
            openai_status=404,
            openai_code="model_not_supported",
            openai_message=_not_in_openai_mode(name),
        )
    if name in MULTIMODAL_MODELS:
        raise EmbedserveError(
            WRONG_URL,
            openai_status=404,
            openai_code="model_not_supported",
            openai_message=_not_in_openai_mode(name),
        )
    raise EmbedserveError(
        "Model not exist.",
        openai_status=404,
        openai_code="model_not_found",
        openai_type="invalid_request_error",
        openai_message=f"The model `{name}` does not exist or you do not have access to it.",
    )


def _not_in_openai_mode(name: str) -> str:
    return f"Unsupported model `{name}` for OpenAI compatibility mode."
