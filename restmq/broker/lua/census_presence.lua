-- census_presence.lua: which nodes have consumers of a queue, by what they noted there. The time is
-- of the same Redis as the deadlines in the notes, which in a cluster is not any. Stands alone.
--
-- KEYS   [1] NODES  [2] LISTENERS
-- ARGV   [1] the time in seconds, or '' for Redis's own clock
-- reply  {now, NODES as one row, LISTENERS as one row}; the forms are those of nodes.lua, leases.lua
-- cost   O(nodes)

local now = ARGV[1]
if now == '' then
  local time = redis.call('TIME')
  now = string.format('%.6f', tonumber(time[1]) + tonumber(time[2]) / 1000000)
end
return {now, redis.call('HGETALL', KEYS[1]), redis.call('HGETALL', KEYS[2])}
