-- settle.lua: what becomes of leased messages: done, held on to, given back or dead.
--
-- ARGV   [5] the node that asks  [6...] items of four: verb, number, token, argument
--        ack      the message is done; argument ''
--        extend   the lease runs for so many seconds from now
--        release  back into the queue, after so many seconds (0 = at once); argument
--                 `<seconds>`, or `keep` for 0 as if it had never been delivered
--        leave    as release 0, because the consumer is gone
--        dead     to the dead letters, for this reason
-- reply  for each item: 0 if this is no lease of now, else 1; for an extension its new end
-- cost   O(log n) an item
--
-- A node whose stream holds a message that another node settles hears of it, to send the next.

local now = clock()
local settings = read_settings()
advance(now, settings)

local numbers = {}
for position = 6, #ARGV, 4 do numbers[#numbers + 1] = ARGV[position + 1] end
local stories = read_all(STORIES, numbers)
local results, settled = {}, {}

-- Messages of one delivery mostly have the same story, word for word.
local last_text, last_story
local function read_story(text)
  if not text or text ~= last_text then
    last_text, last_story = text, {unpack_story(text)}
  end
  return unpack(last_story)
end
local done, dropped, became_ready = {}, {}, 0

local function extend(number, attempts, token, holder, reason, seconds, limit)
  local deadline = now + seconds
  redis.call('ZADD', LEASED, score(deadline), number)
  local story = pack_story(attempts, token, holder, deadline, reason, limit)
  redis.call('HSET', STORIES, number, story)
  return score(deadline), story
end

local function release(number, argument, why)
  local seconds = tonumber(argument) or 0
  local at = seconds > 0 and now + seconds or nil
  became_ready = became_ready + end_leases({number}, now, why, settings, at, argument == 'keep')
end

local function kill(number, attempts, holder, reason)
  redis.call('ZREM', LEASED, number)
  if holder ~= '-' then dropped[#dropped + 1] = held_member(holder, number) end
  local record = redis.call('HGET', MESSAGES, number)
  if has_expired(record, now) then
    forget({number})
  else
    bury(number, record, attempts, reason, now)
  end
end

for index, number in ipairs(numbers) do
  local verb, token, argument = ARGV[4 * index + 2], ARGV[4 * index + 4], ARGV[4 * index + 5]
  local attempts, current, holder, deadline, reason, limit = read_story(stories[index])
  if settled[number] or current ~= token or deadline <= now then
    results[index] = 0
  elseif verb == 'extend' then
    results[index], stories[index] =
      extend(number, attempts, token, holder, reason, tonumber(argument), limit)
  else
    results[index] = 1
    settled[number] = true
    if holder ~= '-' and holder ~= ARGV[5] then publish_settled(holder, number, token) end
    if verb == 'ack' then
      done[#done + 1] = number
      if holder ~= '-' then dropped[#dropped + 1] = held_member(holder, number) end
    elseif verb == 'release' then
      release(number, argument, 'it was released')
    elseif verb == 'leave' then
      release(number, '', 'its consumer disconnected')
    else
      kill(number, attempts, holder, argument)
    end
  end
end
call_chunked('ZREM', LEASED, done)
call_chunked('HDEL', MESSAGES, done)
call_chunked('HDEL', STORIES, done)
call_chunked('ZREM', HELD, dropped)
if #done > 0 then
  if redis.call('EXISTS', GETS) == 1 then call_chunked('HDEL', GETS, done) end
  count_out(#done, now)
end
if became_ready > 0 then wake() end
return results
