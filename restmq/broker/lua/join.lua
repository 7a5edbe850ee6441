-- join.lua: a node says how many consumers of the queue it has, before or after one comes or goes.
--
-- ARGV   [5] node  [6] its consumers (0: it has none left)  [7] seconds until it counts as dead
--        [8] how far its consumers were handed the history ('' = it starts at the end)
-- reply  {epoch, position in the history, the number of the last message that was sent}
-- cost   O(1), and O(log n) a message that was assigned to a node that leaves, or comes back
--
-- What a node broadcast when it was alone, and whose consumers were all gone before they were
-- handed it, was received by nobody: it leaves the history and is ready again.

local node, consumers, position = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[8])
local fields = redis.call('HMGET', RECORD, 'epoch', 'sent', 'sent_number', 'alone', 'trimmed')
local sent = tonumber(fields[2] or 0)

-- Takes what was sent from this position on out of the history again.
local function take_back(first)
  local count = math.min(sent - first, redis.call('LLEN', HISTORY))
  if count <= 0 then return end
  local numbers, records, bytes = {}, {}, 0
  for index, entry in ipairs(redis.call('LRANGE', HISTORY, -count, -1)) do
    numbers[index] = string.format('%.0f', struct.unpack('>d', entry))
    records[index] = string.sub(entry, 17)
    bytes = bytes + #entry
  end
  redis.call('LTRIM', HISTORY, 0, -count - 1)
  sent = sent - count
  local last = redis.call('LINDEX', HISTORY, -1)
  local sent_number = last and struct.unpack('>d', last) or tonumber(fields[5] or 0)
  redis.call('HSET', RECORD, 'sent', sent, 'sent_number', sent_number)
  redis.call('HINCRBYFLOAT', RECORD, 'history_bytes', -bytes)
  if #store_again(numbers, records, clock()) > 0 then wake() end
end

if consumers > 0 then
  if fields[4] and redis.call('HEXISTS', NODES, node) == 0 then
    redis.call('HDEL', RECORD, 'alone') -- this one may read what was meant for nobody else
  end
  local read = position or sent
  redis.call('HSET', NODES, node, pack_node(consumers, clock() + tonumber(ARGV[7]), read))
else
  local was_known = redis.call('HDEL', NODES, node) == 1
  if return_assigned(node) > 0 then wake() end
  local sender, first = string.match(fields[4] or '', '^(%S+) (%d+)$')
  if was_known and position and sender == node then take_back(math.max(tonumber(first), position)) end
end
local last = redis.call('LINDEX', HISTORY, -1)
local number = last and struct.unpack('>d', last) or tonumber(fields[3] or 0)
return {tonumber(fields[1] or 0), position or sent, number}
