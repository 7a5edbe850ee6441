-- move.lua: changes when a delayed message becomes ready, or how urgent one is that waits.
--
-- ARGV   [5] number  [6] 'delay' (seconds from now), 'at' (absolute) or 'priority'  [7] value
-- reply  {state it is in now ('' = there is none), 1 if it was changed}
-- cost   O(log n)
--
-- A listed message that moves leaves its number behind, noted in STALE until the head passes it.

local number, what, value = ARGV[5], ARGV[6], tonumber(ARGV[7])
local now = clock()
advance(now)
local record = redis.call('HGET', MESSAGES, number)
if redis.call('ZSCORE', DEAD, number) then return {'dead', 0} end
if not record then return {'', 0} end
if redis.call('ZSCORE', LEASED, number) then return {'leased', 0} end
if has_expired(record, now) then return {'', 0} end
local is_delayed = redis.call('ZSCORE', DELAYED, number)

if what ~= 'priority' then
  if not is_delayed then return {'ready', 0} end
  local at = what == 'at' and value or now + value
  if at > now then
    redis.call('ZADD', DELAYED, score(at), number)
    return {'delayed', 1}
  end
  redis.call('ZREM', DELAYED, number)
  make_ready({number}, {record})
  wake()
  return {'ready', 1}
end

record = string.sub(record, 1, 16) .. string.char(value) .. string.sub(record, 18)
if is_delayed then
  redis.call('HSET', MESSAGES, number, record)
  return {'delayed', 1}
end
for _, member in ipairs(redis.call('HKEYS', NODES)) do
  -- Its turn in the rotation has come already.
  if redis.call('ZSCORE', ASSIGNED, held_member(member, number)) then return {'ready', 0} end
end
redis.call('HSET', MESSAGES, number, record)
if not redis.call('ZSCORE', RANKED, number) then redis.call('SADD', STALE, number) end
make_ready({number}, {record})
return {'ready', 1}
