-- get.lua: looks at the next message without taking it, and counts the look.
--
-- reply  {number, record, looks so far} or {} when the queue is empty
-- cost   O(1)

local now = clock()
clear_expired(now)
advance(now)
local numbers, records, from_list = pop_ready(now, 1, 1)
if #numbers == 0 then return {} end
unpop(numbers, records, from_list)
return {tonumber(numbers[1]), records[1], redis.call('HINCRBY', GETS, numbers[1], 1)}
