-- census_nodes.lua: which nodes live, and what each tells of itself. Stands alone: its only key is
-- that of the list of nodes.
--
-- KEYS   [1] hash: node to when it counts as dead, a big-endian double, and what it tells
-- ARGV   [1] the time in seconds, or '' for Redis's own clock  [2] what to do:
--        'call'   [3] node  [4] seconds until it counts as dead  [5] what it tells
--        'leave'  [3] node
--        'list'   forget the dead
-- reply  what each live node tells, with 'list'; now, with 'call'; else nothing
-- cost   O(1); O(nodes) for a list

local LIVE, what, node = KEYS[1], ARGV[2], ARGV[3]
-- Without any node that calls, the list goes.
local FORGOTTEN_SECONDS = 3600

local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end
if what == 'call' then
  redis.call('HSET', LIVE, node, struct.pack('>d', now + ARGV[4]) .. ARGV[5])
  redis.call('EXPIRE', LIVE, FORGOTTEN_SECONDS)
  return string.format('%.6f', now)
elseif what == 'leave' then
  redis.call('HDEL', LIVE, node)
  return {}
end
local entries, told = redis.call('HGETALL', LIVE), {}
for index = 1, #entries, 2 do
  local deadline, first = struct.unpack('>d', entries[index + 1])
  if deadline > now then
    told[#told + 1] = string.sub(entries[index + 1], first)
  else
    redis.call('HDEL', LIVE, entries[index])
  end
end
return told
