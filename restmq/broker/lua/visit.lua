-- visit.lua: clears what is due in a queue, and says when something will be due next.
--
-- ARGV   [5] seconds for which the node that asks must count no other as dead (0 = it may now)
-- reply  {when something is due next ('' = nothing), 1 if copies wait for their way,
--         1 if more is due now than one call does}
-- cost   O(log n) a message that is due

local MOST_EXPIRED = 2000
-- Expired messages take up room and nothing else, so they may wait for others.
local EXPIRY_GRAIN_SECONDS = 10

local now = clock()
local settings = read_settings()
local cleared = math.max(clear_expired(now, MOST_EXPIRED), clear_expired_dead(now, MOST_EXPIRED))
advance(now, settings)
local unsure_seconds = tonumber(ARGV[5])
if unsure_seconds == 0 and redis.call('EXISTS', LISTENERS) == 1
    and prune_listeners(now, settings) > 0 then
  wake()
end
local old = redis.call('ZRANGEBYSCORE', ID_EXPIRY, '-inf', score(now), 'LIMIT', 0, MOST_EXPIRED)
call_chunked('HDEL', IDS, old)
call_chunked('ZREM', ID_EXPIRY, old)

local due
local function note(at)
  if at and (not due or at < due) then due = at end
end
local function head(set)
  return tonumber(redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2])
end
note(head(LEASED))
note(head(DELAYED))
for _, set in ipairs({EXPIRY, DEAD_EXPIRY, ID_EXPIRY}) do
  local at = head(set)
  if at then note(math.ceil(at / EXPIRY_GRAIN_SECONDS) * EXPIRY_GRAIN_SECONDS) end
end
if redis.call('EXISTS', HELD) == 1 then
  for _, text in ipairs(redis.call('HVALS', LISTENERS)) do
    local deadline = select(2, unpack_listener(text))
    note(unsure_seconds > 0 and math.max(deadline, now + unsure_seconds) or deadline)
  end
end
local has_more = cleared == MOST_EXPIRED or due and due <= now
return {due and score(due) or '', redis.call('EXISTS', COPIES), has_more and 1 or 0}
