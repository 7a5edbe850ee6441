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

local live = store_again(numbers, records, clock())
for _, number in ipairs(live) do forget_popped(number) end
if #live > 0 then wake() end
return #live
