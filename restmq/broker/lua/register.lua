-- register.lua: makes a queue known, and tells where it lives. Stands alone: its keys are those of
-- the registry of all queues.
--
-- KEYS   [1] sorted set of the names of all queues  [2] set of the names of those in memory
-- ARGV   [1] the queue's name  [2] 'disk' or 'memory': where it shall live, should it be new;
--        '' = only tell
-- reply  'disk' or 'memory', or '' if it is not known
-- cost   O(log n)

local registry, in_memory, queue, wanted = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if not redis.call('ZSCORE', registry, queue) then
  if wanted == '' then return '' end
  redis.call('ZADD', registry, 0, queue)
  if wanted == 'memory' then redis.call('SADD', in_memory, queue) end
  return wanted
end
return redis.call('SISMEMBER', in_memory, queue) == 1 and 'memory' or 'disk'
