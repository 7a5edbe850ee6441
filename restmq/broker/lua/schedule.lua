-- schedule.lua: notes when something is due, or claims what is due now. Stands alone: its only
-- key is the index of all queues and logs.
--
-- KEYS   [1] sorted set: `<time>:<kind>:<name>` by the time at which to look, or later while some
--            node is looking
-- ARGV   [1] the time in seconds, or '' for Redis's own clock  [2] channel that wakes the nodes
--        [3] 'note', then [4...] items of four: seconds, 'in' or 'at', grain in seconds,
--            `<kind>:<name>`
--        or 'claim', [4] how many at the most  [5] seconds for which nobody else gets them
-- reply  note: 1
--        claim: {seconds until the next is due ('' = none), member, ...}
-- cost   O(log n) an item or member

local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local DUE = KEYS[1]
local now = clock()

local function head()
  return tonumber(redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2])
end

if ARGV[3] == 'note' then
  local before, soonest = head(), nil
  for index = 4, #ARGV, 4 do
    local at, grain = tonumber(ARGV[index]), tonumber(ARGV[index + 2])
    if ARGV[index + 1] == 'in' then at = now + at end
    at = math.ceil(at / grain) * grain
    if not soonest or at < soonest then soonest = at end
    redis.call('ZADD', DUE, string.format('%.3f', at),
      string.format('%.2f:%s', at, ARGV[index + 3]))
  end
  if soonest and (not before or soonest < before) then redis.call('PUBLISH', ARGV[2], '') end
  return 1
end

local members = redis.call('ZRANGEBYSCORE', DUE, '-inf', string.format('%.6f', now), 'LIMIT', 0,
  tonumber(ARGV[4]))
for _, member in ipairs(members) do
  redis.call('ZADD', DUE, string.format('%.3f', now + tonumber(ARGV[5])), member)
end
local upcoming = head()
local reply = {upcoming and string.format('%.3f', math.max(upcoming - now, 0)) or ''}
for _, member in ipairs(members) do reply[#reply + 1] = member end
return reply
