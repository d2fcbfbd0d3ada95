from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from embedserve.accounts.accounts import Accounts
from embedserve.accounts.caller import Caller
from embedserve.accounts.plan import Plan
from embedserve.errors import EmbedserveError
from embedserve.settings import Settings
from embedserve.storage.database import Database

V4 = "text-embedding-v4"


def open_accounts(folder: Path, plan: str = "", **more: object) -> Accounts:
    path = folder / "plan.toml"
    path.write_text(plan)
    return Accounts.open(Settings(data_dir=folder, api_key="sk-tests", plan=path, **more))  # type: ignore[arg-type]


async def work(accounts: Accounts, caller: Caller, tokens: int, model: str = V4, door: str = "sync") -> str:
    """``ok``, or the code of the refusal."""
    try:
        reservation = await accounts.admit(caller, model, tokens, door=door)  # type: ignore[arg-type]
    except EmbedserveError as error:
        return error.code
    await accounts.settle(reservation, tokens)
    return "ok"


@pytest.mark.quick
def test_a_budget_is_spent_to_the_last_and_never_exceeded(tmp_path: Path) -> None:
    async def scenario() -> None:
        accounts = open_accounts(tmp_path)
        await accounts.start()
        _, secret = accounts.create_key(budget=0.05)  # 100 requests of 1,000 tokens at 0.0005 a thousand
        caller = await accounts.authenticate(secret)
        told = await asyncio.gather(*(work(accounts, caller, 1000) for _ in range(200)))
        assert told.count("ok") == 100
        assert told.count("Arrearage") == 100
        await accounts.close()

    asyncio.run(scenario())


@pytest.mark.quick
def test_a_budget_outlives_a_restart_and_batch_work_costs_half(tmp_path: Path) -> None:
    async def scenario() -> None:
        accounts = open_accounts(tmp_path)
        await accounts.start()
        record, secret = accounts.create_key(budget=0.001)
        assert await work(accounts, await accounts.authenticate(secret), 1000) == "ok"
        await accounts.close()
        accounts = open_accounts(tmp_path)
        await accounts.start()
        caller = await accounts.authenticate(secret)
        assert await work(accounts, caller, 2001, door="batch") == "Arrearage"
        assert await work(accounts, caller, 2000, door="batch") == "ok"
        assert await work(accounts, caller, 1) == "Arrearage"
        assert accounts.spending.spent(record.id) == pytest.approx(0.001)
        await accounts.close()

    asyncio.run(scenario())


@pytest.mark.quick
def test_failed_work_costs_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        accounts = open_accounts(tmp_path)
        await accounts.start()
        _, secret = accounts.create_key(budget=0.0005, rpm=1, tpm=1000)
        caller = await accounts.authenticate(secret)
        for _ in range(5):
            reservation = await accounts.admit(caller, V4, 1000)
            await accounts.release(reservation)
            await accounts.release(reservation)
            await accounts.settle(reservation, 1000)  # too late: ignored
        assert await work(accounts, caller, 1000) == "ok"
        assert await work(accounts, caller, 1) == "Arrearage"
        await accounts.close()

    asyncio.run(scenario())


@pytest.mark.quick
def test_work_that_the_ledger_did_not_take_is_not_held_against_the_limits(tmp_path: Path) -> None:
    async def scenario() -> None:
        accounts = open_accounts(tmp_path, database_timeout=0.3)
        await accounts.start()
        _, secret = accounts.create_key(budget=0.0005, rpm=1, tpm=1000)
        caller = await accounts.authenticate(secret)
        other = Database.open(tmp_path)
        with other.write():  # another process holds the lock
            for _ in range(3):
                reservation = await accounts.admit(caller, V4, 1000)
                with pytest.raises(EmbedserveError, match="nothing was billed"):
                    await accounts.settle(reservation, 1000)
        other.close()
        assert await work(accounts, caller, 1000) == "ok"
        assert await work(accounts, caller, 1) == "Arrearage"
        await accounts.close()

    asyncio.run(scenario())


@pytest.mark.quick
def test_the_free_tier_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = '[free_quota]\nonly = true\ntokens = {"text-embedding-v4" = 1000}\n'

    async def scenario() -> None:
        accounts = open_accounts(tmp_path, plan)
        await accounts.start()
        caller = await accounts.authenticate("sk-tests")
        told = await asyncio.gather(*(work(accounts, caller, 100) for _ in range(25)))
        assert told.count("ok") == 10
        assert set(told) == {"ok", "AllocationQuota.FreeTierOnly"}
        assert await work(accounts, caller, 1, "text-embedding-v3") == "AllocationQuota.FreeTierOnly"
        await accounts.close()

    asyncio.run(scenario())


@pytest.mark.quick
def test_free_tokens_end_with_their_validity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    async def scenario() -> None:
        accounts = open_accounts(tmp_path, "[free_quota]\nonly = true\n")
        await accounts.start()
        caller = await accounts.authenticate("sk-tests")
        assert await work(accounts, caller, 10) == "ok"
        now = time.time()
        monkeypatch.setattr("embedserve.accounts.spending.time.time", lambda: now + 89 * 86400)
        assert await work(accounts, caller, 10) == "ok"
        monkeypatch.setattr("embedserve.accounts.spending.time.time", lambda: now + 91 * 86400)
        assert await work(accounts, caller, 10) == "AllocationQuota.FreeTierOnly"
        await accounts.close()

    asyncio.run(scenario())


def test_what_other_nodes_spend_is_seen_within_a_second(tmp_path: Path, database_url: str) -> None:
    async def scenario() -> None:
        one, two = (open_accounts(tmp_path, database_url=database_url) for _ in range(2))
        await one.start()
        await two.start()
        _, secret = one.create_key(budget=0.001)
        await asyncio.sleep(0.9)
        assert await work(one, await one.authenticate(secret), 2000) == "ok"
        await asyncio.sleep(0.9)
        assert await work(two, await two.authenticate(secret), 1) == "Arrearage"
        await one.close()
        await two.close()

    asyncio.run(scenario())


@pytest.mark.quick
def test_prices_as_published(tmp_path: Path) -> None:
    plan = Plan()
    assert plan.cost(V4, "sync", 1_000_000) == pytest.approx(0.5)
    assert plan.cost(V4, "batch", 1_000_000) == pytest.approx(0.25)
    assert plan.cost("text-embedding-v1", "sync", 1_000) == pytest.approx(0.0007)
    assert plan.cost("text-embedding-async-v1", "batch", 1_000) == pytest.approx(0.0007)
    assert plan.price_of(V4).usd(1_000_000, "sync") == pytest.approx(0.07)
    assert plan.cost("somebody's-model", "sync", 1_000_000) == 0
    dear = Plan.model_validate({"currency": "USD", "prices": {V4: {"usd_per_1m": 2}}})
    assert dear.cost(V4, "sync", 500_000) == pytest.approx(1)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[limits", "is not TOML"),
        ("[limits.key]\nrpm = 0", "limits.key.rpm is 0: it should be greater than or equal to 1"),
        ("[limits.key]\nrpm = true", "limits.key.rpm is True"),
        ("[limits.key]\nrpm = 99999999999999999999", "limits.key.rpm is 99999999999999999999"),
        ("[limits.key]\nrpm = 2030-01-31", "limits.key.rpm is datetime.date"),
        ("limits = 3", "limits is 3: it should be a table"),
        ('[limits]\nper_second = "yes"', "limits.per_second is 'yes'"),
        ("[limit]\n", "there is no limit; choose from currency, limits, free_quota, prices"),
        ("[limits.workspaces.a]\nrmp = 1", "no limits.workspaces.a.rmp; choose from rpm, tpm"),
        ('[limits.workspaces."a b"]\nrpm = 1', "limits.workspaces.a b: a workspace has"),
        ('[limits.models."text-embeding-v4"]\nrpm = 1', "text-embeding-v4: there is no such model, choose"),
        ('[prices."text-embedding-v4"]\ncny_per_1k = inf', "cny_per_1k is inf: it should be a finite"),
        ('[prices."text-embedding-v4"]\nusd = 1', "choose from cny_per_1k, usd_per_1m, batch"),
        ('[free_quota]\ntokens = {"text-embedding-v4" = -1}', "text-embedding-v4 is -1"),
        ("[free_quota]\ndays = nan", "free_quota.days is nan"),
        ('currency = "EUR"', "currency is 'EUR'"),
        (b"\xff\xfec", r"is not UTF-8 (byte 0): save it as UTF-8"),
        ("a = " + "[" * 100_000, "is not TOML: nested too deeply"),
    ],
)
def test_a_plan_that_cannot_be(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(EmbedserveError, match=re.escape(words)) as caught:
        Plan.read(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    with pytest.raises(EmbedserveError, match="cannot be read"):
        Plan.read(tmp_path / "nowhere.toml")
