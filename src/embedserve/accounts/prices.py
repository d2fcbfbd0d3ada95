"""What tokens cost. Published figures come from the catalogue; a plan may name others."""

from __future__ import annotations

from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from embedserve.catalogue import ASYNC_MODELS, MODELS

MAX_PRICE = 1e9


class Price(BaseModel):
    """Of one model's input tokens. No figure means that it costs nothing in that currency."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    cny_per_1k: float = Field(default=0.0, ge=0, le=MAX_PRICE)
    usd_per_1m: float = Field(default=0.0, ge=0, le=MAX_PRICE)
    batch: float = Field(
        default=0.5, ge=0, le=1000, description="What batch work costs, as a share of the price."
    )

    def cny(self, tokens: int, door: str) -> float:
        return tokens / 1_000 * self.cny_per_1k * self._share(door)

    def usd(self, tokens: int, door: str) -> float:
        return tokens / 1_000_000 * self.usd_per_1m * self._share(door)

    def _share(self, door: str) -> float:
        return self.batch if door == "batch" else 1.0


@cache
def published_prices() -> dict[str, Price]:
    prices = {
        card.id: Price(cny_per_1k=card.cny_per_1k, usd_per_1m=card.usd_per_1m or 0.0)
        for card in MODELS.values()
    }
    # Sold through the batch door only, at a price of their own: no second discount.
    return prices | {name: Price(cny_per_1k=0.0007, batch=1.0) for name in ASYNC_MODELS}


def published_free_tokens() -> dict[str, int]:
    """Tokens by model."""
    return {card.id: card.free_tokens for card in MODELS.values()}
