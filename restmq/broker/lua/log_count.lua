-- log_count.lua: counts the live entries of partitions.
--
-- ARGV   [4] expired entries to clear away at the most  [5...] partitions (one byte each)
-- reply  {1 if too many had expired, so that the counts hold some of them: ask again, count, ...}
-- cost   O(log n) a partition, and an expired entry

local reply = {clear_expired(clock(), tonumber(ARGV[4])) and 1 or 0}
for index = 5, #ARGV do
  local section = 'e' .. ARGV[index]
  reply[#reply + 1] = redis.call('ZLEXCOUNT', ORDER, '[' .. section, '[' .. section .. END)
end
return reply
