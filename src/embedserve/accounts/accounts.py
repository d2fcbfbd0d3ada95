"""Who may call, how much, and what was used: the one object that the service asks."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from embedserve.accounts.bounds import ANY_WORKSPACE
from embedserve.accounts.caller import Caller
from embedserve.accounts.charges import Booking, Charge, Door
from embedserve.accounts.errors import (
    key_ended,
    key_unchecked,
    missing_key,
    model_denied,
    too_many_requests,
    too_many_tokens,
    wrong_key,
)
from embedserve.accounts.keys import KeyChanges, KeyRecord, KeyStore, read_keys, read_stamp
from embedserve.accounts.ledger import Ledger
from embedserve.accounts.limits import Demand, Limiter, MemoryLimiter, Refusal, Ticket, demand
from embedserve.accounts.plan import Limits, Plan, RateLimit
from embedserve.accounts.spending import Spending
from embedserve.accounts.tally import Tally, Workspaces
from embedserve.accounts.view import KeyView, call_by, choose_workspace
from embedserve.accounts.watch import Watch
from embedserve.catalogue import PUBLISHED_CALL_RATES
from embedserve.errors import EmbedserveError
from embedserve.settings import Settings
from embedserve.storage.database import Database

log = logging.getLogger("embedserve.accounts")


@dataclass(slots=True)
class Reservation:
    """Work that was admitted. Settle it or release it, once; what comes later is ignored.

    Attributes:
        request_id: unique; the ledger's row bears it.
        ticket: what was taken from the rate limits, None where none apply.
        held: money or free tokens were set aside.
    """

    caller: Caller
    model: str
    tokens: int
    request_id: str
    door: Door = "sync"
    ticket: Ticket | None = None
    held: bool = False
    closed: bool = False


class Accounts:
    """Keys, limits, quota and ledger of one process.

    ``open`` blocks (it connects and migrates); ``start`` begins the threads that write the ledger and watch
    for changes. The command line uses ``keys`` and ``database`` without starting anything.
    """

    def __init__(
        self,
        database: Database,
        plan: Plan,
        limiter: Limiter,
        *,
        keep_days: float = 7,
        max_workspaces: int = 10_000,
    ) -> None:
        self.database = database
        self.plan = plan
        self.keys = KeyStore(database)
        self.spending = Spending(plan)
        self.ledger = Ledger(
            database,
            timeout=database.timeout,
            keep_days=keep_days,
            on_commit=self.count,
            tracks=lambda: self.spending.tracking,
            step=self.spending.step,
        )
        self.new_secret: str | None = None
        """A key made just now; printed once, not kept."""
        self.totals = Tally()
        """Of this process, for metrics."""
        self.refused: dict[str, int] = {}
        """native error code -> how often ``admit`` raised it, for metrics"""
        self._view = KeyView()
        self._limits_everyone = plan.limits != Limits(per_second=plan.limits.per_second)
        self._limiter = limiter
        self._workspaces = Workspaces(max_workspaces)
        self._watch = Watch(self.refresh)

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Connect, migrate, and adopt the key given in the settings, or make the first one.

        Raises:
            EmbedserveError: the database or the plan cannot be used.
        """
        plan = Plan.read(settings.plan)
        if settings.admin_key and settings.admin_key == settings.api_key:
            raise EmbedserveError("admin_key and api_key are the same: the admin key embeds nothing.")
        limiter: Limiter = MemoryLimiter()
        if settings.redis_url:
            from embedserve.accounts.shared_limits import SharedLimiter

            limiter = SharedLimiter(settings.redis_url.get_secret_value(), settings.redis_timeout)
        url = settings.database_url.get_secret_value() if settings.database_url else None
        database = Database.open(
            settings.data_dir, url, timeout=settings.database_timeout, sync=settings.database_sync
        )
        accounts = cls(
            database,
            plan,
            limiter,
            keep_days=settings.ledger_days,
            max_workspaces=settings.max_workspaces,
        )
        if settings.api_key:
            if accounts.keys.adopt(settings.api_key.get_secret_value()).revoked_at is not None:
                log.warning("the key given in the environment was revoked and stays so")
        elif not accounts.keys.list():
            accounts.new_secret = accounts.keys.create("first", ANY_WORKSPACE)[1]
        accounts.refresh()
        return accounts

    async def start(self) -> None:
        """Begin background work."""
        self.database.start()
        self.ledger.start()
        self._watch.start()

    async def close(self) -> None:
        """Write what is queued, then end background work."""
        await asyncio.to_thread(self.ledger.close)
        await asyncio.to_thread(self._watch.close, self.database.timeout)
        await self._limiter.close()
        self.database.close()

    async def authenticate(self, secret: str | None, workspace: str | None = None) -> Caller:
        """The caller with this key: from memory, and before it is refused from the database.

        Args:
            workspace: as named by the request.

        Raises:
            EmbedserveError: 401 for the key; 401 or 404 for the workspace; 503 if the key is not known here
                and the database does not answer.
        """
        if not secret:
            raise missing_key()
        record = self._view.find_secret(secret)
        if record is None:
            if not await self._watch.fresh():
                raise key_unchecked()
            record = self._view.find_secret(secret)
        if record is None:
            raise wrong_key()
        return call_by(record, choose_workspace(record.workspace, workspace))

    def find_caller(self, key_id: str, workspace: str) -> Caller:
        """The caller who put work in earlier, as the key is now. Blocks if the key is not in memory.

        Raises:
            EmbedserveError: 401, the key was revoked or has expired.
        """
        caller = self._view.find(key_id, workspace)
        if caller is None:
            self.refresh()  # made on another node a moment ago, perhaps
            caller = self._view.find(key_id, workspace)
        if caller is None:
            raise key_ended()
        return caller

    def is_active(self, key_id: str) -> bool:
        """From memory: false within a second of a revocation on any node, and at once when a key expires."""
        return self._view.find(key_id, "") is not None

    @property
    def degraded(self) -> bool:
        """True while Redis does not answer and rate limits are this process's own."""
        return bool(getattr(self._limiter, "degraded", False))

    async def admit(
        self, caller: Caller, model: str, tokens: int, *, request_id: str | None = None, door: Door = "sync"
    ) -> Reservation:
        """Let work begin, and hold it against every limit that applies: batch work, which waits its turn
        anyway, is not held to the rate limits.

        Args:
            tokens: as counted by the tokenizer.
            request_id: unique; the id that the reply carries.

        Raises:
            EmbedserveError: 403 (model, free tier, workspaces), 400 (budget) or 429 (rate limits).
        """
        try:
            return await self._admit(caller, model, tokens, request_id or str(uuid.uuid4()), door)
        except EmbedserveError as error:
            self.refused[error.code] = self.refused.get(error.code, 0) + 1
            raise

    async def _admit(
        self, caller: Caller, model: str, tokens: int, request_id: str, door: Door
    ) -> Reservation:
        if caller.models is not None and model not in caller.models:
            raise model_denied()
        self._workspaces.enter(caller.key_id, caller.workspace)
        reservation = Reservation(caller, model, tokens, request_id, door)
        if caller.budget is not None or self.plan.free_quota.only:
            self.spending.hold(request_id, caller.key_id, caller.budget, model, tokens, door)
            reservation.held = True
        limited = self._limits_everyone or caller.rpm is not None or caller.tpm is not None
        if limited and door == "sync" and (demands := self._demands(caller, model, tokens)):
            try:
                taken = await self._limiter.take(demands)
            except BaseException:
                self._let_go(reservation)
                raise
            if isinstance(taken, Refusal):
                self._let_go(reservation)
                tell = too_many_requests if taken.unit == "requests" else too_many_tokens
                raise tell(taken.retry_after)
            reservation.ticket = taken
        return reservation

    async def admit_call(self, caller: Caller, call: str) -> None:
        """Hold a call around files and jobs to its published rate, where the plan says ``published = true``.

        Args:
            call: a name in ``PUBLISHED_CALL_RATES``.

        Raises:
            EmbedserveError: 429, or 403 (workspaces).
        """
        self._workspaces.enter(caller.key_id, caller.workspace)
        if not self.plan.limits.published:
            return
        name, (per_minute, per_second) = f"workspace:{caller.workspace}:{call}", PUBLISHED_CALL_RATES[call]
        taken = await self._limiter.take([Demand(name, "requests", 1, per_minute, per_second)])
        if isinstance(taken, Refusal):
            error = too_many_requests(taken.retry_after)
            self.refused[error.code] = self.refused.get(error.code, 0) + 1
            raise error

    async def settle(self, reservation: Reservation, tokens: int, *, door: Door | None = None) -> None:
        """The work is done: return when its charge is durable.

        Args:
            tokens: what it took in the end; the limits are corrected by the difference.

        Raises:
            EmbedserveError: 503, the ledger did not answer; nothing is billed and no reply may be sent.
        """
        if reservation.closed:
            return
        reservation.closed = True
        caller = reservation.caller
        charge = Charge(
            reservation.request_id,
            caller.key_id,
            caller.workspace,
            reservation.model,
            tokens,
            door or reservation.door,
        )
        try:
            await self.ledger.record(charge)
        except BaseException:
            self._let_go(reservation)
            await self._give_back(reservation)
            raise
        self._let_go(reservation)
        if reservation.ticket and tokens != reservation.tokens:
            spare = reservation.tokens - tokens
            amounts = [(d, spare) for d in reservation.ticket.demands if d.unit == "tokens"]
            if amounts:
                await self._limiter.give(reservation.ticket, amounts)

    async def release(self, reservation: Reservation) -> None:
        """The work failed: nothing is billed, and what was reserved is given back."""
        if reservation.closed:
            return
        reservation.closed = True
        self._let_go(reservation)
        await self._give_back(reservation)

    async def _give_back(self, reservation: Reservation) -> None:
        """What the rate limits took for work that is not billed."""
        if ticket := reservation.ticket:
            await self._limiter.give(ticket, [(d, d.cost) for d in ticket.demands])

    def create_key(
        self,
        name: str = "",
        workspace: str = "default",
        *,
        models: Sequence[str] | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        budget: float | None = None,
        expires_at: float | None = None,
    ) -> tuple[KeyRecord, str]:
        """A new key and its secret; usable here at once, on other nodes within a second. Blocks."""
        made = self.keys.create(
            name, workspace, models=models, rpm=rpm, tpm=tpm, budget=budget, expires_at=expires_at
        )
        self.refresh()
        return made

    def update_key(self, key_id: str, changes: KeyChanges) -> KeyRecord:
        """Change what a key may do: here at once, on other nodes within a second. Blocks."""
        record = self.keys.update(key_id, changes)
        self.refresh()
        return record

    def revoke_key(self, key_id: str) -> KeyRecord:
        """End a key for good: here at once, on other nodes within a second. Blocks."""
        record = self.keys.revoke(key_id)
        self.refresh()
        return record

    def rotate_key(self, key_id: str, grace: float = 0.0) -> tuple[KeyRecord, str]:
        """A new secret; the old one works for ``grace`` more seconds. Blocks."""
        made = self.keys.rotate(key_id, grace)
        self.refresh()
        return made

    def refresh(self) -> None:
        """Read what has changed in the database, by whomever. Blocks."""
        view, news = self._view, None
        with self.database.read() as connection:
            # The stamp first, the keys after: a change in between is seen again at the next look.
            version = read_stamp(connection)
            records = read_keys(connection, view.version) if version != view.version else []
            if self.spending.tracking:
                news = self.spending.read(connection)
        if news is None and (self.plan.free_quota.only or any(r.budget is not None for r in records)):
            self.spending.track()
            with self.database.read() as connection:
                news = self.spending.read(connection)
        if news:  # before the keys: no budget is in force without what was spent of it
            self.spending.refresh(*news)
        if records or version != view.version:
            view.merge(records, version)

    def _demands(self, caller: Caller, model: str, tokens: int) -> list[Demand]:
        limits = self.plan.limits
        scopes = (
            (f"key:{caller.key_id}", caller.rpm or limits.key.rpm, caller.tpm or limits.key.tpm),
            _scope("workspace", caller.workspace, limits.of_workspace(caller.workspace)),
            _scope("model", model, limits.of_model(model)),
        )
        demands = []
        for scope, rpm, tpm in scopes:
            if rpm is not None:
                demands.append(demand(scope, "requests", 1, rpm, limits.per_second))
            if tpm is not None:
                demands.append(demand(scope, "tokens", tokens, tpm, limits.per_second))
        return demands

    def _let_go(self, reservation: Reservation) -> None:
        if reservation.held:
            reservation.held = False
            self.spending.let_go(reservation.request_id)

    def count(self, booking: Booking) -> None:
        """Note what was just committed; the caller holds ``spending.step`` since before the commit."""
        self.spending.add(booking)
        self.totals.add(booking.charges)


def _scope(kind: str, name: str, limit: RateLimit) -> tuple[str, int | None, int | None]:
    return f"{kind}:{name}", limit.rpm, limit.tpm
