-- census_state.lua: the census that all nodes share: its latest result, who takes it, and until
-- when somebody wants it. Stands alone: its only key is that of the census.
--
-- KEYS   [1] hash: `result`, `walker` (the node that takes it), `claimed` (until when it is that
--        node's business), `asked` (when somebody last wanted to see it)
-- ARGV   [1] the time in seconds, or '' for Redis's own clock  [2] node  [3] what to do:
--        'look'   note that somebody asks
--        'claim'  [4] seconds: take the walk upon this node for so long, unless it is another's
--        'store'  [4] the result, unless the walk is another node's by now
--        'leave'  let the walk go
-- reply  {now, when somebody last asked (0 = never), 1 if the walk is this node's, 1 if it is
--         another's, the result ('' = none; with 'look' only)}
-- cost   O(1)

local CENSUS, node, what = KEYS[1], ARGV[2], ARGV[3]
-- What nobody asked for in so long is forgotten.
local FORGOTTEN_SECONDS = 3600
-- Asking is noted no more often.
local ASKED_GRAIN_SECONDS = 0.5

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
local fields = redis.call('HMGET', CENSUS, 'walker', 'claimed', 'asked')
local walker, asked = fields[1], tonumber(fields[3] or 0)
if not walker or tonumber(fields[2]) <= now then walker = false end

local result = ''
if what == 'look' then
  result = redis.call('HGET', CENSUS, 'result') or ''
  if math.abs(now - asked) >= ASKED_GRAIN_SECONDS then
    redis.call('HSET', CENSUS, 'asked', string.format('%.3f', now))
    redis.call('EXPIRE', CENSUS, FORGOTTEN_SECONDS)
    asked = now
  end
elseif not walker or walker == node then
  if what == 'claim' then
    redis.call('HSET', CENSUS, 'walker', node, 'claimed', string.format('%.3f', now + ARGV[4]))
    redis.call('EXPIRE', CENSUS, FORGOTTEN_SECONDS)
    walker = node
  elseif what == 'store' then
    redis.call('HSET', CENSUS, 'result', ARGV[4])
    redis.call('EXPIRE', CENSUS, FORGOTTEN_SECONDS)
  elseif what == 'leave' then
    redis.call('HDEL', CENSUS, 'walker', 'claimed')
    walker = false
  end
end
return {string.format('%.6f', now), string.format('%.6f', asked), walker == node and 1 or 0,
  walker and walker ~= node and 1 or 0, result}
