"""Rate limits that several servers share, counted in Redis (or Valkey).

The same slots of a second as in :mod:`embedserve.accounts.limits`, kept in one hash a limit and judged by
a script, so that a decision over several limits is one step for every node. Seconds are Redis's own.

When Redis does not answer within the time it is given, each server holds callers to the whole limit by
itself and asks again a few seconds later: callers are never made to wait for a counter.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from embedserve.accounts.limits import Demand, MemoryLimiter, Refusal, Ticket
from embedserve.errors import EmbedserveError

log = logging.getLogger("embedserve.accounts")

# KEYS: one hash a limit, second -> used. ARGV: cost, per_minute, per_second (0: none) of each.
# Returns {0, now} when all was taken, or {number of the limit in the way, seconds to wait}.
# A slot of the future can only come from a clock that was set back: it is forgotten, never waited for.
TAKE = """
local now = tonumber(redis.call('TIME')[1])
for i, key in ipairs(KEYS) do
  local cost, minute, share = tonumber(ARGV[3*i-2]), tonumber(ARGV[3*i-1]), tonumber(ARGV[3*i])
  local used, current, slots, stale = 0, 0, {}, {}
  local flat = redis.call('HGETALL', key)
  for j = 1, #flat, 2 do
    local second, amount = tonumber(flat[j]), tonumber(flat[j+1])
    if second <= now - 60 or second > now then
      stale[#stale+1] = flat[j]
    else
      used = used + amount
      slots[#slots+1] = {second, amount}
      if second == now then current = amount end
    end
  end
  if #stale > 0 then redis.call('HDEL', key, unpack(stale)) end
  local excess = used + cost - minute
  if excess > 0 then
    table.sort(slots, function(a, b) return a[1] < b[1] end)
    for _, slot in ipairs(slots) do
      excess = excess - slot[2]
      if excess <= 0 then return {i, slot[1] + 60 - now} end
    end
    return {i, 60}
  end
  if share > 0 and current > 0 and current + math.min(cost, share) > share then return {i, 1} end
end
for i, key in ipairs(KEYS) do
  redis.call('HINCRBY', key, now, ARGV[3*i-2])
  redis.call('EXPIRE', key, 120)
end
return {0, now}
"""

# KEYS as above. ARGV: the second of the ticket, then the amount to return of each.
GIVE = """
for i, key in ipairs(KEYS) do
  if redis.call('HEXISTS', key, ARGV[1]) == 1 then
    redis.call('HINCRBY', key, ARGV[1], -tonumber(ARGV[i+1]))
  end
end
"""

PREFIX = "{embedserve}:limit:"
"""The braces keep every key in one slot of a Redis cluster: a script may touch only one."""

PAUSE = 5.0
"""Seconds of counting alone after Redis failed to answer, before it is asked again."""


class SharedLimiter:
    """Limits shared through Redis, each node's own when it does not answer.

    Args:
        url: ``redis://…`` or ``rediss://…``
        timeout: seconds that one decision may wait for Redis.
    """

    def __init__(self, url: str, timeout: float = 0.25) -> None:
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ModuleNotFoundError as error:
            raise EmbedserveError(
                "A redis_url needs its client: pip install 'embedserve[redis]'.",
                status=500,
                code="InternalError",
            ) from error
        self.timeout = timeout
        try:
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=32,
                timeout=timeout,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            # The URL may hold a password: it is not repeated.
            raise EmbedserveError("redis_url is no URL; expected redis://host:port/0.", status=500) from error
        self._redis = Redis(connection_pool=pool)
        self._take: Any = self._redis.register_script(TAKE)
        self._give: Any = self._redis.register_script(GIVE)
        self._alone = MemoryLimiter()
        self._alone_until = 0.0

    @property
    def degraded(self) -> bool:
        """True while this node counts alone."""
        return time.monotonic() < self._alone_until

    async def take(self, demands: Sequence[Demand]) -> Ticket | Refusal:
        if self.degraded:
            return self._alone.try_take(demands)
        keys = [PREFIX + demand.name for demand in demands]
        figures = [x for demand in demands for x in (demand.cost, demand.per_minute, demand.per_second or 0)]
        try:
            async with asyncio.timeout(self.timeout):
                which, number = await self._take(keys=keys, args=figures)
        except Exception as error:
            self._pause(error)
            return self._alone.try_take(demands)
        if which:
            return Refusal(demands[which - 1].unit, float(number))
        return Ticket(tuple(demands), int(number), remote=True)

    async def give(self, ticket: Ticket, amounts: Sequence[tuple[Demand, int]]) -> None:
        if not ticket.remote:
            await self._alone.give(ticket, amounts)
            return
        if self.degraded:
            return  # the slot is forgotten within a minute anyway
        keys = [PREFIX + demand.name for demand, _ in amounts]
        try:
            async with asyncio.timeout(self.timeout):
                await self._give(keys=keys, args=[ticket.second, *(amount for _, amount in amounts)])
        except Exception as error:
            self._pause(error)

    async def close(self) -> None:
        try:
            async with asyncio.timeout(self.timeout):
                await self._redis.aclose()
        except Exception as error:
            log.debug("closing Redis: %s", type(error).__name__)

    def _pause(self, error: Exception) -> None:
        if not self.degraded:
            log.warning(
                "Redis did not answer (%s): rate limits are this server's own for %g s",
                type(error).__name__,
                PAUSE,
            )
        self._alone_until = time.monotonic() + PAUSE
