-- restore.lua: gives back messages that were taken but reached nobody, to the head of the queue.
--
-- ARGV   [5] batch: undoes that reply of this node, if it is the last of the flavour in TAKEN
--        or [5] '' [6] what this node calls this call: a repetition of it does nothing
--        [7...] pairs: number, record
-- reply  how many messages came back
-- cost   O(log n) a message; bounded for the repetition

local RESTORES_KNOWN = 1000

local numbers, records = {}, {}
if ARGV[5] ~= '' then
  local packed = redis.call('GET', TAKEN)
  if not packed then return 0 end
  local reply = cmsgpack.unpack(packed)
  if reply[1] ~= ARGV[5] then return 0 end
  numbers, records = reply[2], reply[3]
  redis.call('DEL', TAKEN)
else
  if redis.call('LPOS', TAKEN, ARGV[6]) then return 0 end
  redis.call('RPUSH', TAKEN, ARGV[6])
  redis.call('LTRIM', TAKEN, -RESTORES_KNOWN, -1)
  redis.call('EXPIRE', TAKEN, TAKEN_SECONDS)
  for index = 7, #ARGV, 2 do
    numbers[#numbers + 1] = ARGV[index]
    records[#records + 1] = ARGV[index + 1]
  end
end

local now = clock()
local bodies, deadlines, live, live_records = {}, {}, {}, {}
for index, number in ipairs(numbers) do
  local record = records[index]
  -- One that is stored is back already.
  if not has_expired(record, now) and redis.call('HEXISTS', MESSAGES, number) == 0 then
    local expires = expires_at(record)
    live[#live + 1] = number
    live_records[#live_records + 1] = record
    bodies[#bodies + 1] = number
    bodies[#bodies + 1] = record
    if expires > 0 then
      deadlines[#deadlines + 1] = score(expires)
      deadlines[#deadlines + 1] = number
    end
  end
end
call_chunked('HSET', MESSAGES, bodies)
call_chunked('ZADD', EXPIRY, deadlines)
make_ready(live, live_records)
for _, number in ipairs(live) do forget_popped(number) end
if #live > 0 then wake() end
return #live
