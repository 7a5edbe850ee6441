-- purge.lua: empties a queue and ends the streams that were open on it.
--
-- reply  1 if anything was waiting, else 0
-- cost   O(1); Redis frees the memory in the background
--
-- The counter, the policy and the status stay. The epoch tells every node, whenever it looks
-- again, that streams which joined before must end.

local had = live_count(clock()) > 0
redis.call('UNLINK', READY, MESSAGES, EXPIRY, GETS, POPPED, ASSIGNED, HISTORY)
if redis.call('EXISTS', RECORD, NODES) > 0 then
  redis.call('HINCRBY', RECORD, 'epoch', 1)
  redis.call('HDEL', RECORD, 'history_bytes')
  wake()
end
return had and 1 or 0
