-- peek.lua: lists messages that wait, without taking or counting anything.
--
-- ARGV   [4] how many at the most  [5] 'oldest' (first first) or 'newest' (last first)
--        [6] most bytes (one message more may pass it)
-- reply  {number, record, number, record, ...}
-- cost   O(1) a message listed or skipped; delete.lua bounds what must be skipped

local STEP = 100

local now = clock()
local count, max_bytes, newest = tonumber(ARGV[4]), tonumber(ARGV[6]), ARGV[5] == 'newest'
local reply, bytes, offset = {}, 0, 0
while #reply < 2 * count and bytes < max_bytes do
  local numbers
  if newest then
    numbers = redis.call('LRANGE', READY, -offset - STEP, -offset - 1)
  else
    numbers = redis.call('LRANGE', READY, offset, offset + STEP - 1)
  end
  if #numbers == 0 then break end
  for step = 1, #numbers do
    local number = numbers[newest and #numbers + 1 - step or step]
    if #reply == 2 * count or bytes >= max_bytes then break end
    local record = redis.call('HGET', MESSAGES, number)
    if record and not has_expired(record, now) then
      reply[#reply + 1] = tonumber(number)
      reply[#reply + 1] = record
      bytes = bytes + #record
    end
  end
  offset = offset + #numbers
end
return reply
