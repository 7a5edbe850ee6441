-- take.lua: takes the next messages off a queue for good.
--
-- ARGV   [5] batch  [6] how many at the most  [7] most bytes (one message more may pass it)
--        [8] '1': a later delete knows them
-- reply  {number, record, number, record, ..., 1 if it stopped for the bytes alone}
-- cost   O(1) a message

local now = clock()
local count, max_bytes = tonumber(ARGV[6]), tonumber(ARGV[7])
clear_expired(now)
advance(now)
local numbers, records = pop_ready(now, count, max_bytes)
if #numbers == 0 and redis.call('EXISTS', ASSIGNED) == 1 then
  -- What a dead node never fetched is still in the queue.
  prune_nodes(now)
  numbers, records = pop_ready(now, count, max_bytes)
end
if #numbers == 0 then return {0} end
forget(numbers)
remember_reply(ARGV[5], numbers, records)
count_out(#numbers, now)
if ARGV[8] == '1' then remember_popped(numbers) end
local reply = interleave(numbers, records)
local stopped_early = #numbers < count and redis.call('EXISTS', READY, RANKED) > 0
reply[#reply + 1] = stopped_early and 1 or 0
return reply
