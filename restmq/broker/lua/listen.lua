-- listen.lua: a node says that callers wait here for messages, or consumers of leased streams.
--
-- ARGV   [5] node  [6] consumers of leased streams  [7] seconds until the node counts as dead;
--        '' = it listens no more
-- reply  the queue's epoch
-- cost   O(1)

if ARGV[7] == '' then
  redis.call('HDEL', LISTENERS, ARGV[5])
else
  redis.call('HSET', LISTENERS, ARGV[5], string.format('%d %.3f', ARGV[6], clock() + ARGV[7]))
end
return tonumber(redis.call('HGET', RECORD, 'epoch') or 0)
