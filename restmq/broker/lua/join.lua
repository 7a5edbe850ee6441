-- join.lua: a node says how many consumers of the queue it has, before or after one comes or goes.
--
-- ARGV   [5] node  [6] its consumers (0: it has none left)  [7] seconds until it counts as dead
--        [8] how far it has read the history ('' = it starts at the end)
-- reply  {epoch, position in the history, the highest number that was sent}
-- cost   O(1), and O(log n) a message that was assigned to a node that leaves

local node, consumers, position = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[8])
local fields = redis.call('HMGET', RECORD, 'epoch', 'sent', 'sent_number')
position = position or tonumber(fields[2] or 0)
if consumers > 0 then
  redis.call('HSET', NODES, node, pack_node(consumers, clock() + tonumber(ARGV[7]), position))
else
  redis.call('HDEL', NODES, node)
  if return_assigned(node) > 0 then wake() end
end
return {tonumber(fields[1] or 0), position, tonumber(fields[3] or 0)}
