-- stats.lua: what a queue looks like now.
--
-- reply  {ready, status ('' = never set), policy ('' = never set), consumers, delayed, leased,
--         dead, seconds since the oldest ready message was published ('' = none),
--         messages in a second, messages out a second, leases that expired, messages that died}
-- cost   O(log n) and O(nodes)

local EXPIRED_PER_LOOK = 1000

local now = clock()
clear_expired(now, EXPIRED_PER_LOOK)
clear_expired_dead(now, EXPIRED_PER_LOOK)
advance(now)
local fields = redis.call('HMGET', RECORD, 'status', 'policy', 'rate_in', 'rate_out',
  'expired_leases', 'died')
local settings = read_settings()
local consumers = 0
for _, text in ipairs(redis.call('HVALS', NODES)) do
  local count, deadline = unpack_node(text)
  if deadline > now then consumers = consumers + count end
end
for _, text in ipairs(redis.call('HVALS', LISTENERS)) do
  local count, deadline = unpack_listener(text)
  if deadline > now then consumers = consumers + count end
end

-- The oldest is the first of the list or of one of the priorities.
local oldest
local function look_at(number)
  local record = number and redis.call('HGET', MESSAGES, number)
  if record then
    local published = struct.unpack('>d', record)
    if not oldest or published < oldest then oldest = published end
  end
end
look_at(listed_head())
if redis.call('EXISTS', RANKED) == 1 then
  for priority = 0, HIGHEST_PRIORITY do
    look_at(redis.call('ZRANGEBYSCORE', RANKED, rank(priority, 0), '(' .. rank(priority - 1, 0),
      'LIMIT', 0, 1)[1])
  end
end

local function rate(packed)
  return string.format('%.3f', select(2, next_rate(packed, 0, now)))
end
return {math.max(ready_count(now), 0), status_of(fields[1], settings) or '',
  policy_of(fields[2], settings) or '', consumers,
  redis.call('ZCARD', DELAYED), redis.call('ZCARD', LEASED), redis.call('ZCARD', DEAD),
  oldest and score(math.max(now - oldest, 0)) or '', rate(fields[3]), rate(fields[4]),
  tonumber(fields[5] or 0), tonumber(fields[6] or 0)}
