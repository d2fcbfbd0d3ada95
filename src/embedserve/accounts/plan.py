"""The house rules of one server: limits, prices and free tokens, read from a TOML file.

Without a file nothing is enforced: a local server bills nobody, but it can say what the same work would
have cost at the published prices.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from embedserve.accounts.bounds import COUNT_LIMIT, explain, is_workspace, known_models
from embedserve.accounts.prices import Price, published_free_tokens, published_prices
from embedserve.catalogue import PUBLISHED_RATE_LIMITS
from embedserve.errors import EmbedserveError

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _check_model(name: str) -> str:
    if name not in known_models():
        raise ValueError(f"there is no such model, choose from {', '.join(sorted(known_models()))}")
    return name


def _check_workspace(name: str) -> str:
    if not is_workspace(name):
        raise ValueError("a workspace has up to 64 letters, digits, - and _")
    return name


Count = Annotated[int, Field(ge=1, le=COUNT_LIMIT)]
ModelName = Annotated[str, AfterValidator(_check_model)]
WorkspaceName = Annotated[str, AfterValidator(_check_workspace)]


class RateLimit(BaseModel):
    """Requests and tokens a minute; None for no limit."""

    model_config = STRICT

    rpm: Count | None = None
    tpm: Count | None = None


class Limits(BaseModel):
    """Who is held to what. A name that is not listed gets ``key``, ``workspace`` and ``model``."""

    model_config = STRICT

    per_second: bool = True
    """Also hold every second to a sixtieth, as the original does."""
    published: bool = False
    """The original's published figures for models that are not listed here."""
    key: RateLimit = RateLimit()
    workspace: RateLimit = RateLimit()
    model: RateLimit = RateLimit()
    workspaces: dict[WorkspaceName, RateLimit] = {}
    models: dict[ModelName, RateLimit] = {}

    def of_workspace(self, name: str) -> RateLimit:
        return self.workspaces.get(name, self.workspace)

    def of_model(self, name: str) -> RateLimit:
        if self.published and name not in self.models and name in PUBLISHED_RATE_LIMITS:
            rpm, tpm = PUBLISHED_RATE_LIMITS[name]
            return RateLimit(rpm=rpm, tpm=tpm)
        return self.models.get(name, self.model)


class FreeQuota(BaseModel):
    """Free tokens a model, valid from its first use."""

    model_config = STRICT

    only: bool = False
    """Refuse what goes beyond the free tokens ("use free tier only")."""
    days: float = Field(default=90, gt=0, le=100_000)
    tokens: dict[ModelName, Annotated[int, Field(ge=0, le=2**62)]] = Field(
        default_factory=published_free_tokens
    )


class Plan(BaseModel):
    """Everything in the file. Prices that it does not name stay as published."""

    model_config = STRICT

    currency: Literal["CNY", "USD"] = "CNY"
    """Of the keys' budgets."""
    limits: Limits = Limits()
    free_quota: FreeQuota = FreeQuota()
    prices: dict[ModelName, Price] = {}

    @classmethod
    def read(cls, path: Path | None) -> Plan:
        """Raises EmbedserveError: not there, not TOML, or a name or value that does not exist."""
        if path is None:
            return cls()
        try:
            return cls.model_validate(tomllib.loads(path.read_bytes().decode("utf-8-sig")))
        except OSError as error:
            raise EmbedserveError(f"The plan {path} cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise EmbedserveError(
                f"The plan {path} is not UTF-8 (byte {error.start}): save it as UTF-8."
            ) from None
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            reason = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "nested too deeply"
            raise EmbedserveError(f"The plan {path} is not TOML: {reason}.") from None
        except ValidationError as error:
            first, *more = error.errors(include_url=False)
            others = f" ({len(more)} more like it)" if more else ""
            raise EmbedserveError(
                f"The plan {path} cannot be used: {_explain(cls, first)}{others}."
            ) from None

    def price_of(self, model: str) -> Price:
        return self.prices.get(model) or published_prices().get(model) or Price()

    def cost(self, model: str, door: str, tokens: int) -> float:
        """In ``currency``, at list price; free tokens are not taken off."""
        price = self.price_of(model)
        return price.cny(tokens, door) if self.currency == "CNY" else price.usd(tokens, door)


def _explain(plan: type[BaseModel], item: ErrorDetails) -> str:
    """Key, value, and what it may be."""
    *tables, name = [str(part) for part in item["loc"] if part != "[key]"]
    place = ".".join((*tables, name))
    if "[key]" in item["loc"]:
        return f"{place}: {item['msg'].removeprefix('Value error, ')}"
    if item["type"] != "extra_forbidden":
        return explain(place, item["input"], item["msg"])
    table: type[BaseModel] = plan
    for part in tables:
        inner = table.model_fields[part].annotation if part in table.model_fields else None
        table = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else RateLimit
    if tables[:1] == ["prices"]:
        table = Price
    return f"there is no {place}; choose from {', '.join(table.model_fields)}"
