-- purge.lua: empties a queue and ends the streams that were open on it.
--
-- reply  1 if anything was ready, delayed or leased, else 0
-- cost   O(1); Redis frees the memory in the background
--
-- The counter, the settings, the policy, the status, the dead letters, and copies that are on
-- their way to other queues stay. All other messages are gone, and receipts of leases are stale.
-- Idempotency keys of publishers count no more, because a repeat would be answered with messages
-- that are gone: add.lua ignores those up to number "purged". Those of copies stay.
-- The epoch tells every node, whenever it looks again, that streams which joined before must end.

local had = redis.call('HLEN', MESSAGES) - expired_count(clock()) > 0
redis.call('UNLINK', READY, RANKED, STALE, MESSAGES, EXPIRY, GETS, POPPED, STORIES, LEASED, HELD,
  DELAYED, ASSIGNED, HISTORY)
if redis.call('EXISTS', RECORD, NODES, LISTENERS) > 0 then
  redis.call('HINCRBY', RECORD, 'epoch', 1)
  redis.call('HDEL', RECORD, 'history_bytes')
  local last = redis.call('HGET', RECORD, 'next')
  if last then redis.call('HSET', RECORD, 'purged', last) end
  wake()
end
return had and 1 or 0
