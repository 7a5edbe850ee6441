-- join.lua: a node says how many consumers of the queue it has, before or after one comes or goes.
--
-- ARGV   [4] node  [5] its consumers (0: it has none left)  [6] seconds until it counts as dead
--        [7] how far it has read the history ('' = it starts at the end)
-- reply  {epoch, position in the history}
-- cost   O(1), and O(1) a message that was assigned to a node that leaves

local node, consumers, position = ARGV[4], tonumber(ARGV[5]), tonumber(ARGV[7])
local fields = redis.call('HMGET', RECORD, 'epoch', 'sent')
position = position or tonumber(fields[2] or 0)
if consumers > 0 then
  redis.call('HSET', NODES, node, pack_node(consumers, clock() + tonumber(ARGV[6]), position))
else
  redis.call('HDEL', NODES, node)
  if return_assigned(node) > 0 then wake() end
end
return {tonumber(fields[1] or 0), position}
