-- dead.lua: lists dead letters, puts them back into the queue, or throws them away.
--
-- ARGV   [5] 'list', 'redrive' or 'drop'  [6] how many at the most
--        [7] only this number, or ''  [8] only what died up to then, '' = now
--        [9] list: how many to pass over  [10] list: the bytes after which it ends
-- reply  list: {number, record, attempts, reason, when it died, ...}, the oldest first
--        redrive, drop: {how many it was, the time now}; less than there are if they are big
-- cost   O(log n) a message

local EXPIRED_PER_LOOK = 1000
-- Bodies that one call moves; one may pass it.
local MOST_BYTES = 8 * 1024 * 1024
local STEP = 50

local now = clock()
advance(now)
clear_expired_dead(now, EXPIRED_PER_LOOK)
local what, count, only, until_then = ARGV[5], tonumber(ARGV[6]), ARGV[7], ARGV[8]
local numbers
if only ~= '' then
  numbers = redis.call('ZSCORE', DEAD, only) and {only} or {}
else
  numbers = redis.call('ZRANGEBYSCORE', DEAD, '-inf', until_then ~= '' and until_then or '+inf',
    'LIMIT', tonumber(ARGV[9]) or 0, count)
end

if what == 'list' then
  local reply, bytes, max_bytes = {}, 0, tonumber(ARGV[10])
  for _, number in ipairs(numbers) do
    if bytes >= max_bytes then break end
    local record, attempts, reason = unpack(cmsgpack.unpack(redis.call('HGET', DEAD_MESSAGES, number)))
    bytes = bytes + #record
    for _, value in ipairs({tonumber(number), record, attempts, reason,
        redis.call('ZSCORE', DEAD, number)}) do
      reply[#reply + 1] = value
    end
  end
  return reply
end

-- Puts some back into the queue; returns the size of their bodies.
local function redrive(part)
  local records, bytes = {}, 0
  for index, letter in ipairs(exhume(part)) do
    records[index] = letter[1]
    bytes = bytes + #records[index]
  end
  store_again(part, records, now)
  return bytes
end

if what == 'drop' then
  call_chunked('ZREM', DEAD, numbers)
  call_chunked('HDEL', DEAD_MESSAGES, numbers)
  call_chunked('ZREM', DEAD_EXPIRY, numbers)
  return {#numbers, score(now)}
end
local moved, bytes = 0, 0
while moved < #numbers and bytes < MOST_BYTES do
  local part = {unpack(numbers, moved + 1, math.min(moved + STEP, #numbers))}
  bytes = bytes + redrive(part)
  moved = moved + #part
end
if moved > 0 then wake() end
return {moved, score(now)}
