-- dead.lua: lists dead letters, puts them back into the queue, or throws them away.
--
-- ARGV   [5] 'list', 'redrive' or 'drop'  [6] how many at the most
--        [7] only this number, or ''  [8] only what died up to then, '' = now
--        [9] list: how many to pass over
-- reply  list: {number, record, attempts, reason, when it died, ...}, the oldest first
--        redrive, drop: {how many it was, the time now}
-- cost   O(log n) a message

local EXPIRED_PER_LOOK = 1000

local now = clock()
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
  local reply = {}
  for _, number in ipairs(numbers) do
    local record, attempts, reason = unpack(cmsgpack.unpack(redis.call('HGET', DEAD_MESSAGES, number)))
    for _, value in ipairs({tonumber(number), record, attempts, reason,
        redis.call('ZSCORE', DEAD, number)}) do
      reply[#reply + 1] = value
    end
  end
  return reply
end

local found = exhume(numbers)
if what == 'redrive' and #numbers > 0 then
  local bodies, records, deadlines = {}, {}, {}
  for index, number in ipairs(numbers) do
    local record = found[index][1]
    records[index] = record
    bodies[#bodies + 1] = number
    bodies[#bodies + 1] = record
    if expires_at(record) > 0 then
      deadlines[#deadlines + 1] = score(expires_at(record))
      deadlines[#deadlines + 1] = number
    end
  end
  call_chunked('HSET', MESSAGES, bodies)
  call_chunked('ZADD', EXPIRY, deadlines)
  make_ready(numbers, records)
  wake()
end
return {#numbers, score(now)}
