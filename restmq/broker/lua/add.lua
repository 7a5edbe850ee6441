-- add.lua: appends messages to a queue, in the order given.
--
-- ARGV   [4] a node that need not be woken, or ''
--        [5...] pairs: ttl in seconds ('' = none), packed message
-- reply  the number of the first message; the others follow it without a gap
-- cost   O(1) a message, O(log n) with a ttl

local now = clock()
local count = (#ARGV - 4) / 2
local last = redis.call('HINCRBY', RECORD, 'next', count)
local forever = struct.pack('>dd', now, 0)
local numbers, bodies, deadlines = {}, {}, {}
for index = 1, count do
  local number = last - count + index
  local ttl = ARGV[3 + 2 * index]
  local head = forever
  if ttl ~= '' then
    local expires = now + tonumber(ttl)
    head = struct.pack('>dd', now, expires)
    deadlines[#deadlines + 1] = score(expires)
    deadlines[#deadlines + 1] = number
  end
  numbers[index] = number
  bodies[2 * index - 1] = number
  bodies[2 * index] = head .. ARGV[4 + 2 * index]
end
-- More may leave than come, so that a queue which nobody reads does not grow for ever.
if #deadlines > 0 then clear_expired(now, EXPIRED_PER_CALL + count) end
call_chunked('HSET', MESSAGES, bodies)
call_chunked('ZADD', EXPIRY, deadlines)
call_chunked('RPUSH', READY, numbers)
wake(ARGV[4])
return last - count + 1
