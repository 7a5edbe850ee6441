-- stats.lua: what a queue looks like now.
--
-- reply  {messages waiting, status ('' = never set), policy ('' = never set), consumers}
-- cost   O(log n) and O(nodes)

local now = clock()
local fields = redis.call('HMGET', RECORD, 'status', 'policy')
local consumers = 0
for _, text in ipairs(redis.call('HVALS', NODES)) do
  local count, deadline = unpack_node(text)
  if deadline > now then consumers = consumers + count end
end
return {live_count(now), fields[1] or '', fields[2] or '', consumers}
