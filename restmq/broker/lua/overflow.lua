-- overflow.lua: what happens to the messages of a queue that is full.

local DEFAULT_OVERFLOW = 'reject'

-- Messages that wait: ready and delayed. What is leased or dead does not count against the limit.
local function waiting_count(now)
  clear_expired(now)
  return redis.call('HLEN', MESSAGES) - redis.call('ZCARD', LEASED) - expired_count(now)
end

-- The oldest message of the lowest priority of those in RANKED, and its rank.
local function ranked_least()
  local last = redis.call('ZREVRANGE', RANKED, 0, 0, 'WITHSCORES')
  if #last == 0 then return nil end
  local class = math.floor(tonumber(last[2]) / RANK_STEP) * RANK_STEP
  local head = redis.call('ZRANGEBYSCORE', RANKED, string.format('%.0f', class), '+inf',
    'WITHSCORES', 'LIMIT', 0, 1)
  return head[1], tonumber(head[2])
end

-- Takes the oldest of the messages of the lowest priority, or, if none is ready, the delayed one
-- that is due first; nil when none can be had.
local function pop_least()
  local number, place = ranked_least()
  local listed = listed_head()
  local listed_place = listed and LISTED_RANK + tonumber(listed)
  -- A lower priority has the higher rank; only in one priority the lower number goes first.
  local ranked_is_lower = place and place >= LISTED_RANK + RANK_STEP
  local ranked_is_older = place and place >= LISTED_RANK and listed and place < listed_place
  if listed and not ranked_is_lower and not ranked_is_older then
    redis.call('LPOP', READY)
    return listed
  end
  if number then
    redis.call('ZREM', RANKED, number)
    return number
  end
  local delayed = redis.call('ZRANGE', DELAYED, 0, 0)[1]
  if delayed then redis.call('ZREM', DELAYED, delayed) end
  return delayed
end

-- Makes room in a queue that holds `excess` messages too many.
local function shed(excess, overflow, now)
  while excess > 0 do
    local number = pop_least()
    if not number then return end
    local record = redis.call('HGET', MESSAGES, number)
    if has_expired(record, now) then
      forget({number})
    else
      excess = excess - 1
      if overflow == 'dead-letter' then
        local attempts = unpack_story(redis.call('HGET', STORIES, number))
        bury(number, record, attempts, 'the queue was full', now)
      else
        forget({number})
      end
    end
  end
end
