-- census.lua: what a queue looks like now, for a walk over all of them. It tells what stats.lua
-- tells, at a third of the cost, because it clears nothing away: what is due counts as it lies.
--
-- reply  {now, ready, consumers, delayed, leased, dead, when the oldest ready message was published
--         (0 = none), messages in a second, messages out a second, leases that expired, messages
--         that died: as big-endian doubles;
--         status ('' = never set), policy ('' = never set)}
-- cost   O(log n) and O(nodes)

local now = clock()
local fields = redis.call('HMGET', RECORD, 'status', 'policy', 'settings', 'rate_in', 'rate_out',
  'expired_leases', 'died')
local ready = redis.call('HLEN', MESSAGES)
local consumers, leased, delayed, dead, oldest = 0, 0, 0, 0, 0

local function look_at(number)
  local record = number and redis.call('HGET', MESSAGES, number)
  if record then
    local published = struct.unpack('>d', record)
    if oldest == 0 or published < oldest then oldest = published end
  end
end

-- Most queues have ready messages, one behind the other, and nothing else.
if redis.call('EXISTS', LEASED, DELAYED, DEAD, EXPIRY, RANKED, NODES, LISTENERS) > 0 then
  for _, text in ipairs(redis.call('HVALS', NODES)) do
    local count, deadline = unpack_node(text)
    if deadline > now then consumers = consumers + count end
  end
  for _, text in ipairs(redis.call('HVALS', LISTENERS)) do
    local count, deadline = unpack_listener(text)
    if deadline > now then consumers = consumers + count end
  end
  leased, delayed = redis.call('ZCARD', LEASED), redis.call('ZCARD', DELAYED)
  dead = redis.call('ZCARD', DEAD)
  ready = math.max(ready_count(now), 0)
  -- The oldest is the first of the list or of one of the priorities.
  if ready > 0 and redis.call('EXISTS', RANKED) == 1 then
    for priority = 0, HIGHEST_PRIORITY do
      look_at(redis.call('ZRANGEBYSCORE', RANKED, rank(priority, 0), '(' .. rank(priority - 1, 0),
        'LIMIT', 0, 1)[1])
    end
  end
end
if ready > 0 then look_at(listed_head()) end

local status, policy = fields[1] or '', fields[2] or ''
if fields[3] or ARGV[4] ~= '' then
  local settings = merge_settings(fields[3])
  status, policy = status_of(fields[1], settings) or '', policy_of(fields[2], settings) or ''
end
local function rate(packed)
  return packed and select(2, next_rate(packed, 0, now)) or 0
end
return {struct.pack('>ddddddddddd', now, ready, consumers, delayed, leased, dead, oldest,
  rate(fields[4]), rate(fields[5]), fields[6] or 0, fields[7] or 0), status, policy}
