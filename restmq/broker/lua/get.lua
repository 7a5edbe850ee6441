-- get.lua: looks at the oldest message without taking it, and counts the look.
--
-- reply  {number, record, looks so far} or {} when the queue is empty
-- cost   O(1)

local now = clock()
clear_expired(now)
local numbers, records = pop_ready(now, 1, 1)
if #numbers == 0 then return {} end
push_head(numbers)
return {tonumber(numbers[1]), records[1], redis.call('HINCRBY', GETS, numbers[1], 1)}
