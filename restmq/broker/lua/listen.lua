-- listen.lua: a node says that callers wait here for messages, or consumers of leased streams.
--
-- ARGV   [5] node  [6] consumers of leased streams  [7] seconds until the node counts as dead;
--        '' = it listens no more
-- reply  the queue's epoch
-- cost   O(1)

local FORGOTTEN_SECONDS = 3600

if ARGV[7] == '' then
  redis.call('HDEL', LISTENERS, ARGV[5])
else
  redis.call('HSET', LISTENERS, ARGV[5], string.format('%d %.3f', ARGV[6], clock() + ARGV[7]))
  -- A queue that nobody visits forgets its dead nodes, unless their streams hold something.
  if redis.call('EXISTS', HELD) == 0 then
    redis.call('EXPIRE', LISTENERS, FORGOTTEN_SECONDS)
  else
    redis.call('PERSIST', LISTENERS)
  end
end
return tonumber(redis.call('HGET', RECORD, 'epoch') or 0)
