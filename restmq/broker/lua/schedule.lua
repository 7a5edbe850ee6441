-- schedule.lua: notes when something is due, claims what is due now, or crosses it out. Stands
-- alone: its only key is the index of all queues and logs.
--
-- KEYS   [1] sorted set: `<time>:<kind>:<name>` by the time at which to look, or later while some
--            node is looking
-- ARGV   [1] the time in seconds, or '' for Redis's own clock  [2] channel that wakes the nodes
--        [3] 'note', then [4...] items of four: seconds, 'in' or 'at', grain in seconds,
--            `<kind>:<name>`
--        or 'claim', [4] how many at the most  [5] seconds for which nobody else gets them
--        or 'done', [4] a member that was claimed  [5] when its queue or log is due next, absolute
--            ('' = not at all)  [6] grain in seconds
-- reply  note, done: 1
--        claim: {seconds until the next is due ('' = none), member, ...}
-- cost   O(log n) an item or member

local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local DUE = KEYS[1]
local SOONEST_SECONDS = 0.01
local now = clock()

local function head()
  return tonumber(redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2])
end

-- Returns the time that was noted. Names may hold any byte, so string.format must not see them.
local function note(at, grain, what)
  at = math.ceil(at / grain) * grain
  redis.call('ZADD', DUE, string.format('%.3f', at), string.format('%.2f:', at) .. what)
  return at
end

local function tell(before, soonest)
  if soonest and (not before or soonest < before) then redis.call('PUBLISH', ARGV[2], '') end
end

if ARGV[3] == 'note' then
  local before, soonest = head(), nil
  for index = 4, #ARGV, 4 do
    local seconds = tonumber(ARGV[index])
    local at = ARGV[index + 1] == 'in' and now + seconds or seconds
    at = note(at, tonumber(ARGV[index + 2]), ARGV[index + 3])
    if not soonest or at < soonest then soonest = at end
  end
  tell(before, soonest)
  return 1
end

if ARGV[3] == 'done' then
  redis.call('ZREM', DUE, ARGV[4])
  local upcoming = tonumber(ARGV[5])
  if upcoming then
    local before = head()
    -- Never in the past, where a queue whose Redis has a slower clock would be looked at at once.
    upcoming = math.max(upcoming, now + SOONEST_SECONDS)
    tell(before, note(upcoming, tonumber(ARGV[6]), string.match(ARGV[4], '^[^:]*:(.*)$')))
  end
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
