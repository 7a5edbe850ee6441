-- ready.lua: messages that wait to be taken, and how they leave.
--
-- Ready messages leave by priority, higher first, and in one priority by number. Those of default
-- priority that never left lie in the list READY; all others, with another priority or returned
-- from wherever they were, lie in the sorted set RANKED, whose score is that order. Reading from
-- both at once is a merge of two sorted sequences.

local DEFAULT_PRIORITY = 4
local HIGHEST_PRIORITY = 9
-- Priorities lie so far apart in a rank; numbers stay below.
local RANK_STEP = 2 ^ 49
local LISTED_RANK = (HIGHEST_PRIORITY - DEFAULT_PRIORITY) * RANK_STEP

-- Messages that are read at once on their way out.
local POP_STEP = 64
-- Expired messages that one call clears away; the rest waits for the next call.
local EXPIRED_PER_CALL = 100
-- Numbers without a body that may stay in the list in any case.
local GHOSTS_ALLOWED = 1000

local function priority_of(record)
  return string.byte(record, 17)
end

local function rank(priority, number)
  return string.format('%.0f', (HIGHEST_PRIORITY - priority) * RANK_STEP + number)
end

-- Messages, ready or delayed, whose time to live has passed; they count for nothing.
local function expired_count(now)
  return redis.call('ZCOUNT', EXPIRY, '-inf', score(now))
end

-- Messages that are ready, be they assigned to a node. O(log n). Too low by those that are delayed
-- and have expired, until these are cleared.
local function ready_count(now)
  return redis.call('HLEN', MESSAGES) - redis.call('ZCARD', LEASED) - redis.call('ZCARD', DELAYED)
    - expired_count(now)
end

-- Forgets the bodies of messages that are in no structure any more, and all kept beside them.
local function forget(numbers)
  if #numbers == 0 then return end
  call_chunked('HDEL', MESSAGES, numbers)
  if redis.call('EXISTS', EXPIRY, GETS, STORIES) == 0 then return end
  call_chunked('ZREM', EXPIRY, numbers)
  call_chunked('HDEL', GETS, numbers)
  call_chunked('HDEL', STORIES, numbers)
end

-- Sweeps numbers without a body out of the list once they outweigh the others.
-- O(1) amortised over the messages that left their number there.
local function sweep_ghosts()
  local listed = redis.call('LLEN', READY)
  if listed <= GHOSTS_ALLOWED then
    if redis.call('EXISTS', MESSAGES) == 0 then redis.call('DEL', READY, STALE) end
    return
  end
  local elsewhere = redis.call('ZCARD', LEASED) + redis.call('ZCARD', DELAYED)
    + redis.call('ZCARD', RANKED)
  local live = redis.call('HLEN', MESSAGES) - elsewhere
  if listed - live <= GHOSTS_ALLOWED or listed <= 2 * live then return end
  for _ = 1, math.ceil(listed / CHUNK) do
    local numbers = redis.call('LPOP', READY, math.min(CHUNK, listed))
    if not numbers then break end
    listed = listed - #numbers
    local found, kept = redis.call('HMGET', MESSAGES, unpack(numbers)), {}
    for index, number in ipairs(numbers) do
      if redis.call('SREM', STALE, number) == 0 and found[index] then kept[#kept + 1] = number end
    end
    call_chunked('RPUSH', READY, kept)
  end
end

-- Clears away messages that expired while ready or delayed; returns how many there were.
local function clear_expired(now, most)
  if redis.call('EXISTS', EXPIRY) == 0 then return 0 end
  local numbers = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', score(now), 'LIMIT', 0,
    most or EXPIRED_PER_CALL)
  if #numbers == 0 then return 0 end
  call_chunked('ZREM', RANKED, numbers)
  call_chunked('ZREM', DELAYED, numbers)
  forget(numbers)
  sweep_ghosts()
  return #numbers
end

-- Makes stored messages ready that are in no other structure. O(log n) a message.
local function make_ready(numbers, records)
  local places = {}
  for index, number in ipairs(numbers) do
    places[#places + 1] = rank(priority_of(records[index]), tonumber(number))
    places[#places + 1] = number
  end
  call_chunked('ZADD', RANKED, places)
end

-- Stores messages that are stored nowhere and makes them ready, but for those that expired;
-- returns their numbers. One that is stored is back already. O(log n) a message.
local function store_again(numbers, records, now)
  local bodies, deadlines, live, live_records = {}, {}, {}, {}
  for index, number in ipairs(numbers) do
    local record = records[index]
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
  return live
end

-- Takes the numbers that come next, some of which may have no body: returns up to `step` of them,
-- none only if nothing is left, and which of them came from the list.
local function next_numbers(step)
  if redis.call('EXISTS', RANKED, STALE) == 0 then
    return redis.call('LPOP', READY, step) or {}, nil
  end
  local numbers, from_list = {}, {}
  repeat
    local ranked = redis.call('ZRANGE', RANKED, 0, step - 1, 'WITHSCORES')
    local listed = redis.call('LRANGE', READY, 0, step - 1)
    local next_ranked, next_listed = 1, 1
    while #numbers < step do
      local number, place = listed[next_listed], tonumber(ranked[next_ranked + 1])
      -- What comes next in the list must be known before anything ranked may leave.
      if not number and (not place or #listed == step) then break end
      if number and (not place or LISTED_RANK + tonumber(number) < place) then
        next_listed = next_listed + 1
        if redis.call('SREM', STALE, number) == 0 then
          numbers[#numbers + 1] = number
          from_list[number] = true
        end
      else
        numbers[#numbers + 1] = ranked[next_ranked]
        next_ranked = next_ranked + 2
      end
    end
    if next_listed > 1 then redis.call('LTRIM', READY, next_listed - 1, -1) end
    if next_ranked > 1 then
      redis.call('ZREMRANGEBYRANK', RANKED, 0, (next_ranked - 1) / 2 - 1)
    end
  until #numbers > 0 or next_listed == 1 and next_ranked == 1
  return numbers, from_list
end

-- The number at the head of the list that is still that of a message which waits there, or nil;
-- the others before it are dropped, each of them once.
local function listed_head()
  while true do
    local number = redis.call('LINDEX', READY, 0)
    if not number then return nil end
    if redis.call('SREM', STALE, number) == 0 and redis.call('HEXISTS', MESSAGES, number) == 1 then
      return number
    end
    redis.call('LPOP', READY)
  end
end

-- Undoes next_numbers for messages that are stored, given in the same order.
local function unpop(numbers, records, from_list)
  local listed, ranked, ranked_records = {}, {}, {}
  for index = #numbers, 1, -1 do
    local number = numbers[index]
    if not from_list or from_list[number] then
      listed[#listed + 1] = number
    else
      ranked[#ranked + 1] = number
      ranked_records[#ranked_records + 1] = records[index]
    end
  end
  call_chunked('LPUSH', READY, listed)
  make_ready(ranked, ranked_records)
end

-- Takes up to `count` live messages off the head, and stops once their bodies reach `max_bytes`.
-- Numbers without a body (deleted or expired) are dropped on the way: each of them once.
-- The bodies stay stored; `forget` removes them. O(1) a message, O(log n) for a ranked one.
-- Returns numbers, records, and for `unpop` which of them came from the list (nil = all).
local function pop_ready(now, count, max_bytes)
  local numbers, records, all_from_list, bytes = {}, {}, nil, 0
  local some_expire = redis.call('EXISTS', EXPIRY) == 1
  local step = 1
  while #numbers < count and bytes < max_bytes do
    local popped, from_list = next_numbers(math.min(count - #numbers, step))
    if #popped == 0 then break end
    if from_list then
      all_from_list = all_from_list or {}
      for number in pairs(from_list) do all_from_list[number] = true end
    end
    local found = redis.call('HMGET', MESSAGES, unpack(popped))
    local gone, too_many, too_many_records = {}, {}, {}
    for index, number in ipairs(popped) do
      local record = found[index]
      if record and some_expire and has_expired(record, now) then
        gone[#gone + 1] = number
      elseif record and bytes >= max_bytes then
        too_many[#too_many + 1] = number
        too_many_records[#too_many_records + 1] = record
      elseif record then
        numbers[#numbers + 1] = number
        records[#records + 1] = record
        bytes = bytes + #record
      end
    end
    forget(gone)
    unpop(too_many, too_many_records, from_list)
    -- Only as many bodies are read at once as should fit, going by those that came before.
    step = #numbers == 0 and 2 * step or math.ceil((max_bytes - bytes) * #numbers / bytes)
    step = math.min(math.max(step, 1), POP_STEP)
  end
  return numbers, records, all_from_list
end
