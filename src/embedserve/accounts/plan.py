"""The house rules of one server: limits, prices and free tokens, read from a TOML file.

Without a file nothing is enforced: a local server bills nobody, but it can say what the same work would
have cost at the published prices.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embedserve.accounts.prices import Price, published_free_tokens, published_prices
from embedserve.catalogue import PUBLISHED_RATE_LIMITS
from embedserve.errors import EmbedserveError

Count = int | None


class RateLimit(BaseModel):
    """Requests and tokens a minute; None for no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rpm: Count = Field(default=None, ge=1)
    tpm: Count = Field(default=None, ge=1)


class Limits(BaseModel):
    """Who is held to what. A name that is not listed gets ``key``, ``workspace`` and ``model``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per_second: bool = True
    """Also hold every second to a sixtieth, as the original does."""
    published: bool = False
    """The original's published figures for models that are not listed here."""
    key: RateLimit = RateLimit()
    workspace: RateLimit = RateLimit()
    model: RateLimit = RateLimit()
    workspaces: dict[str, RateLimit] = {}
    models: dict[str, RateLimit] = {}

    def of_workspace(self, name: str) -> RateLimit:
        return self.workspaces.get(name, self.workspace)

    def of_model(self, name: str) -> RateLimit:
        if self.published and name not in self.models and name in PUBLISHED_RATE_LIMITS:
            rpm, tpm = PUBLISHED_RATE_LIMITS[name]
            return RateLimit(rpm=rpm, tpm=tpm)
        return self.models.get(name, self.model)


class FreeQuota(BaseModel):
    """Free tokens a model, valid from its first use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    only: bool = False
    """Refuse what goes beyond the free tokens ("use free tier only")."""
    days: float = Field(default=90, gt=0)
    tokens: dict[str, int] = Field(default_factory=published_free_tokens)


class Plan(BaseModel):
    """Everything in the file. Prices that it does not name stay as published."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: Literal["CNY", "USD"] = "CNY"
    """Of the keys' budgets."""
    limits: Limits = Limits()
    free_quota: FreeQuota = FreeQuota()
    prices: dict[str, Price] = {}

    @classmethod
    def read(cls, path: Path | None) -> Plan:
        """Raises EmbedserveError: not there, not TOML, or a name or value that does not exist."""
        if path is None:
            return cls()
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise EmbedserveError(f"The plan {path} cannot be read: {error.strerror}.") from error
        except tomllib.TOMLDecodeError as error:
            raise EmbedserveError(f"The plan {path} is not TOML: {error}.") from error
        except ValidationError as error:
            told = "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
                for item in error.errors(include_url=False)
            )
            raise EmbedserveError(f"The plan {path} says what cannot be: {told}.") from error

    def price_of(self, model: str) -> Price:
        return self.prices.get(model) or published_prices().get(model) or Price()

    def cost(self, model: str, door: str, tokens: int) -> float:
        """In ``currency``, at list price; free tokens are not taken off."""
        price = self.price_of(model)
        return price.cny(tokens, door) if self.currency == "CNY" else price.usd(tokens, door)
