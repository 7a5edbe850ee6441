-- lease.lua: hands out the next messages for a time; unless they are acked, they come back.
--
-- ARGV   [5] how many at the most  [6] most bytes (one message more may pass it)
--        [7] seconds ('' = as the queue's settings say)  [8] token: names these deliveries
--        [9] the node whose stream holds them; '-' for a request, '+' for a poll of a stream
--        [10] seconds, [11] most attempts where the settings do not say ('' = the usual ones)
-- reply  {when the leases run out, after how many seconds, flags: 1 if it stopped for the bytes
--         alone, plus 2 if the seconds are those of [10],
--         number, attempt, record, number, attempt, record, ...}
-- cost   O(log n) a message
--
-- Streams and their polls get nothing while the queue's status is stop.

local now = clock()
local fields = redis.call('HMGET', RECORD, 'settings', 'status')
local settings = merge_settings(fields[1])
local count, max_bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local said = tonumber(ARGV[7]) or settings.lease_seconds
local seconds = said or tonumber(ARGV[10]) or DEFAULT_LEASE_SECONDS
local limit = tonumber(ARGV[11])
local flags = not said and ARGV[10] ~= '' and 2 or 0
local token, holder = ARGV[8], ARGV[9] == '+' and '-' or ARGV[9]
local deadline = now + seconds
local nothing = {score(deadline), tostring(seconds), flags}
if ARGV[9] ~= '-' and status_of(fields[2], settings) == '0' then return nothing end
clear_expired(now)
advance(now, settings)
local numbers, records = pop_ready(now, count, max_bytes)
if #numbers == 0 and redis.call('EXISTS', ASSIGNED) == 1 then
  prune_nodes(now)
  numbers, records = pop_ready(now, count, max_bytes)
end
if #numbers == 0 then return nothing end

local stories = redis.call('EXISTS', STORIES) == 1 and read_all(STORIES, numbers) or {}
local written, places, held, reply = {}, {}, {}, nothing
local first_story = pack_story(1, token, holder, deadline, '', limit)
for index, number in ipairs(numbers) do
  local attempts, story = 1, first_story
  if stories[index] then
    local before, _, _, _, reason = unpack_story(stories[index])
    attempts = before + 1
    story = pack_story(attempts, token, holder, deadline, reason, limit)
  end
  written[2 * index - 1] = number
  written[2 * index] = story
  places[2 * index - 1] = reply[1]
  places[2 * index] = number
  if holder ~= '-' then
    held[#held + 1] = 0
    held[#held + 1] = held_member(holder, number)
  end
  reply[3 * index + 1] = tonumber(number)
  reply[3 * index + 2] = attempts
  reply[3 * index + 3] = records[index]
end
call_chunked('HSET', STORIES, written)
call_chunked('ZADD', LEASED, places)
call_chunked('ZADD', HELD, held)
-- A lease is honoured to its end, whatever the time to live; end_leases looks at that.
if redis.call('EXISTS', EXPIRY) == 1 then call_chunked('ZREM', EXPIRY, numbers) end
if #numbers < count and redis.call('EXISTS', READY, RANKED) > 0 then reply[3] = flags + 1 end
return reply
