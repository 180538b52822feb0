"""What has to happen in one step on the server, in Lua.

A script is not rolled back: whatever can be refused (for want of memory, too) stands before its first write.
"""

from __future__ import annotations

from ssl_cert_server.storage.redis.client import Script

_UNLESS_GIVEN_UP = """
-- A call that its caller gave up may still arrive; it must not undo what was acknowledged after it. So the next call on
-- the same subject says which were given up, and those that are on record do nothing.
-- KEYS[1]: the record. ARGV[1]: this call. ARGV[2]: how many follow that were given up.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 'given up' end
local args = 3 + tonumber(ARGV[2])
local function revoke()
  if args == 3 then return end
  local now = tonumber(redis.call('TIME')[1])
  for i = 3, args - 1 do redis.call('ZADD', KEYS[1], now, ARGV[i]) end
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - 86400)
  redis.call('EXPIRE', KEYS[1], 86400)
end
"""

_UNLESS_LOST = """
-- KEYS[4]: the lease. Then in ARGV: its token, empty where there is none.
local token = ARGV[args]
if token ~= '' and redis.call('HGET', KEYS[4], 'token') ~= token then return 'lost' end
"""

PUT = Script(
    _UNLESS_GIVEN_UP
    + _UNLESS_LOST
    + """
-- KEYS[2]: the value. KEYS[3]: the set of its folder. ARGV: the name in it, empty at the top level; the value.
revoke()
if ARGV[args + 1] ~= '' then redis.call('SADD', KEYS[3], ARGV[args + 1]) end
redis.call('SET', KEYS[2], ARGV[args + 2])
return 'done'
"""
)

DELETE = Script(
    _UNLESS_GIVEN_UP
    + _UNLESS_LOST
    + """
revoke()
redis.call('DEL', KEYS[2])
if ARGV[args + 1] ~= '' then redis.call('SREM', KEYS[3], ARGV[args + 1]) end
return 'done'
"""
)

_TIMED = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function set_until(token, milliseconds)
  local lapses = string.format('%.0f', now + milliseconds * 1000)
  redis.call('HSET', KEYS[1], 'until', lapses, 'lasts', token .. ' ' .. milliseconds)
end
"""
"""The token is there twice: servers that know nothing of ``lasts`` leave that of a lease before theirs."""

ACQUIRE = Script(
    _TIMED
    + """
-- KEYS: the lease, the last token given. ARGV: the instance, this call, milliseconds, calls that were given up.
local held = redis.call('HMGET', KEYS[1], 'token', 'until', 'call', 'lasts')
local given_up = false  -- it arrived after its caller had stopped waiting: nobody holds what it took
for i = 4, #ARGV do given_up = given_up or held[3] == ARGV[i] end
if held[1] and tonumber(held[2]) > now and not given_up then
  local whose, lasts = string.match(held[4] or '', '^(%d+) (%d+)$')
  -- Further off than it lasts: the clock was set back, and a dead holder would keep it for as long as that step.
  if whose == held[1] and tonumber(held[2]) > now + lasts * 1000 then set_until(whose, lasts) end
  if held[3] == ARGV[2] then return held[1] end  -- the reply to a first attempt was lost
  return false
end
-- The clock takes over where a failover lost the last tokens; and the last token, where the clock was set back.
local token = math.max(tonumber(redis.call('GET', KEYS[2]) or '0') + 1, now)
token = string.format('%.0f', token)
redis.call('SET', KEYS[2], token)
redis.call('HSET', KEYS[1], 'token', token, 'holder', ARGV[1], 'call', ARGV[2])
set_until(token, ARGV[3])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[3] + 86400000))
return token
"""
)
"""Give the token, or nil where somebody holds the lease. A lapsed lease stays its holder's for a day."""

RENEW = Script(
    _TIMED
    + """
-- KEYS: the lease. ARGV: its token, milliseconds.
if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
set_until(ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[2] + 86400000))
return 1
"""
)

RELEASE = Script("""
-- KEYS: leases. ARGV: the field that tells whose they are, and what it must say.
for i = 1, #KEYS do
  if redis.call('HGET', KEYS[i], ARGV[1]) == ARGV[2] then redis.call('DEL', KEYS[i]) end
end
return 0
""")

# --- the due index
#
# All entries of a queue are in `later` (by time), or, once somebody found them due, in both `waiting` (by time) and
# `ready` (by rank). `ranks` holds the rank of every one.

SCHEDULE = Script(
    _UNLESS_GIVEN_UP
    + """
-- KEYS[2..5]: later, waiting, ready, ranks. ARGV: a key, its time and its rank, and so on.
revoke()
for i = args, #ARGV, 3 do
  redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
  redis.call('HSET', KEYS[5], ARGV[i], ARGV[i + 2])
  redis.call('ZREM', KEYS[3], ARGV[i])
  redis.call('ZREM', KEYS[4], ARGV[i])
end
return 'done'
"""
)

UNSCHEDULE = Script(
    _UNLESS_GIVEN_UP
    + """
revoke()
for i = args, #ARGV do
  for set = 2, 4 do redis.call('ZREM', KEYS[set], ARGV[i]) end
  redis.call('HDEL', KEYS[5], ARGV[i])
end
return 'done'
"""
)

CLAIM = Script("""
-- KEYS: later, waiting, ready, ranks. ARGV: now, when claimed ones come up again, how many, how many moves at most.
local later, waiting, ready, ranks = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local most = tonumber(ARGV[4])
-- Found due by somebody whose clock is ahead of the caller's.
local early = redis.call('ZRANGEBYSCORE', waiting, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #early, 2 do
  redis.call('ZADD', later, early[i + 1], early[i])
  redis.call('ZREM', waiting, early[i])
  redis.call('ZREM', ready, early[i])
end
local due = redis.call('ZRANGEBYSCORE', later, '-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #due, 2 do
  redis.call('ZADD', waiting, due[i + 1], due[i])
  redis.call('ZADD', ready, redis.call('HGET', ranks, due[i]) or '0', due[i])
  redis.call('ZREM', later, due[i])
end
if #early >= 2 * most or #due >= 2 * most then return {1} end  -- the lowest rank may be among the rest
local claimed = {0}
local lowest = redis.call('ZRANGE', ready, 0, ARGV[3] - 1, 'WITHSCORES')
for i = 1, #lowest, 2 do
  local at = redis.call('ZSCORE', waiting, lowest[i])
  redis.call('ZADD', later, ARGV[2], lowest[i])
  redis.call('ZREM', waiting, lowest[i])
  redis.call('ZREM', ready, lowest[i])
  claimed[#claimed + 1] = lowest[i]
  claimed[#claimed + 1] = at
  claimed[#claimed + 1] = lowest[i + 1]
end
return claimed
""")
"""Give whether to ask again, then of each that was claimed its key, time and rank."""

ENTRY = Script("""
-- KEYS: later, waiting, ready, ranks. ARGV: a key.
local at = redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('ZSCORE', KEYS[2], ARGV[1])
return at and {ARGV[1], at, redis.call('HGET', KEYS[4], ARGV[1]) or '0'} or {}
""")

NEXT = Script("""
-- KEYS: later, waiting, ready, ranks.
local found = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local too = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
return {found[2] or too[2], too[2] or found[2]}
""")
"""Give two times, or none; the next is the lower."""

ENTRIES = Script("""
-- KEYS: later, waiting, ready, ranks. ARGV: a cursor, how many at a time.
local found = redis.call('HSCAN', KEYS[4], ARGV[1], 'COUNT', ARGV[2])
local entries = {found[1]}
for i = 1, #found[2], 2 do
  local key = found[2][i]
  local at = redis.call('ZSCORE', KEYS[1], key) or redis.call('ZSCORE', KEYS[2], key)
  if at then
    entries[#entries + 1] = key
    entries[#entries + 1] = at
    entries[#entries + 1] = found[2][i + 1]
  end
end
return entries
""")
"""Give the next cursor, then entries as :data:`CLAIM` does."""

# --- changes

ANNOUNCE = Script("""
-- KEYS: the stream. ARGV: how many to keep, keys.
for i = 2, #ARGV do redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'key', ARGV[i]) end
return 0
""")

CHANGES = Script("""
-- KEYS: the stream. ARGV: a cursor, how many at most.
-- A cursor is always that of an entry. Where the entry is gone, those after it may be gone, too.
local found = {}
if ARGV[1] ~= '' then found = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2] + 1) end
if found[1] and found[1][1] == ARGV[1] then
  local keys = {0, found[#found][1]}
  for i = 2, #found do
    if found[i][2][1] == 'key' then keys[#keys + 1] = found[i][2][2] end
  end
  return keys
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {ARGV[1] == '' and 0 or 1, last and last[1] or redis.call('XADD', KEYS[1], '*', 'start', '')}
""")
"""Give whether to start over, the new cursor, then keys."""
