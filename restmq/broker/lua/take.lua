-- take.lua: takes the oldest messages off a queue for good.
--
-- ARGV   [4] batch  [5] how many at the most  [6] most bytes (one message more may pass it)
--        [7] '1': a later delete knows them
-- reply  {number, record, number, record, ..., 1 if it stopped for the bytes alone}
-- cost   O(1) a message

local now = clock()
local count, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
clear_expired(now)
local numbers, records = pop_ready(now, count, max_bytes)
if #numbers == 0 and redis.call('EXISTS', ASSIGNED) == 1 then
  -- What a dead node never fetched is still in the queue.
  prune_nodes(now)
  numbers, records = pop_ready(now, count, max_bytes)
end
if #numbers == 0 then return {0} end
forget(numbers)
remember_reply(ARGV[4], numbers, records)
if ARGV[7] == '1' then remember_popped(numbers) end
local reply = interleave(numbers, records)
local stopped_early = #numbers < count and redis.call('EXISTS', READY) == 1
reply[#reply + 1] = stopped_early and 1 or 0
return reply
