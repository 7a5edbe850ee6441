-- leases.lua: leased, delayed and dead messages, and how they become ready again.
--
-- LEASED and DELAYED: number by the time at which it becomes ready again; DEAD: by that of its
-- death, with DEAD_MESSAGES and DEAD_EXPIRY beside it, which a purge of the queue leaves alone.
-- HELD: `<node>:<number>` of leases that belong to a stream of that node. STORIES: what happened
-- to a message that was leased at least once.

local DEFAULT_MAX_ATTEMPTS = 5
local DEFAULT_LEASE_SECONDS = 30
-- What one call returns to the queue of what is due; the rest waits for the next call.
local DUE_PER_CALL = 200
local RETURN_STEP = 64

-- token: names the delivery, '-' while there is none; holder: the node of a stream, or '-';
-- limit: after how many attempts this lease's end is death where the settings do not say, or nil.
local function pack_story(attempts, token, holder, deadline, reason, limit)
  local count = limit and string.format('%d/%d', attempts, limit) or string.format('%d', attempts)
  return string.format('%s %s %s %.6f %s', count, token, holder, deadline, reason)
end

local function unpack_story(text)
  if not text then return 0, '-', '-', 0, '', nil end
  local attempts, limit, token, holder, deadline, reason =
    string.match(text, '^(%d+)/?(%d*) (%S+) (%S+) ([%d.]+) (.*)$')
  return tonumber(attempts), token, holder, tonumber(deadline), reason, tonumber(limit)
end

local function held_member(node, number)
  return string.format('%s:%016.0f', node, tonumber(number))
end

-- Tells the node whose stream held a message that it does so no more, and may get the next.
local function publish_settled(holder, number, token)
  redis.call('PUBLISH', ARGV[2] .. holder .. ':settled', number .. ':' .. token .. ':' .. ARGV[3])
end

-- Makes a message dead that is stored but in no other structure.
local function bury(number, record, attempts, reason, now)
  forget({number})
  redis.call('ZADD', DEAD, score(now), number)
  redis.call('HSET', DEAD_MESSAGES, number, cmsgpack.pack({record, attempts, reason}))
  redis.call('HINCRBY', RECORD, 'died', 1)
  local expires = expires_at(record)
  if expires > 0 then redis.call('ZADD', DEAD_EXPIRY, score(expires), number) end
end

-- Takes dead letters out of their room; returns for each {record, attempts, reason}. Their bodies
-- are all in memory at once, so pass few.
local function exhume(numbers)
  local found = read_all(DEAD_MESSAGES, numbers)
  for index, packed in ipairs(found) do found[index] = cmsgpack.unpack(packed) end
  call_chunked('ZREM', DEAD, numbers)
  call_chunked('HDEL', DEAD_MESSAGES, numbers)
  call_chunked('ZREM', DEAD_EXPIRY, numbers)
  return found
end

local function clear_expired_dead(now, most)
  local numbers = redis.call('ZRANGEBYSCORE', DEAD_EXPIRY, '-inf', score(now), 'LIMIT', 0, most)
  if #numbers > 0 then exhume(numbers) end
  return #numbers
end

local function delay_until(number, record, at)
  redis.call('ZADD', DELAYED, score(at), number)
  local expires = expires_at(record)
  if expires > 0 then redis.call('ZADD', EXPIRY, score(expires), number) end
end

-- Ends leases without an ack: their messages become ready, or delayed until `at`, or dead after
-- too many attempts, or are gone if they expired meanwhile. `keep`: as if never delivered.
-- Returns how many became ready. O(log n) a message.
local function end_leases(numbers, now, reason, settings, at, keep)
  local total = 0
  for first = 1, #numbers, RETURN_STEP do
    local part = {unpack(numbers, first, math.min(first + RETURN_STEP - 1, #numbers))}
    local stories = redis.call('HMGET', STORIES, unpack(part))
    local records = redis.call('HMGET', MESSAGES, unpack(part))
    local ready, ready_records, gone, dropped = {}, {}, {}, {}
    redis.call('ZREM', LEASED, unpack(part))
    for index, number in ipairs(part) do
      local attempts, _, holder, _, _, limit = unpack_story(stories[index])
      local max_attempts = settings.max_attempts or limit or DEFAULT_MAX_ATTEMPTS
      local record = records[index]
      if holder ~= '-' then dropped[#dropped + 1] = held_member(holder, number) end
      if keep then attempts = attempts - 1 end
      if not record or has_expired(record, now) then
        gone[#gone + 1] = number
      elseif not keep and max_attempts > 0 and attempts >= max_attempts then
        bury(number, record, attempts, reason, now)
      else
        redis.call('HSET', STORIES, number, pack_story(attempts, '-', '-', 0, reason))
        if at then
          delay_until(number, record, at)
        else
          ready[#ready + 1] = number
          ready_records[#ready_records + 1] = record
          local expires = expires_at(record)
          if expires > 0 then redis.call('ZADD', EXPIRY, score(expires), number) end
        end
      end
    end
    forget(gone)
    call_chunked('ZREM', HELD, dropped)
    make_ready(ready, ready_records)
    total = total + #ready
  end
  return total
end

-- A node's entry in LISTENERS: its consumers of leased streams, and when it counts as dead.
local function unpack_listener(text)
  local consumers, deadline = string.match(text, '^(%d+) ([%d.]+)$')
  return tonumber(consumers), tonumber(deadline)
end

-- Forgets nodes that have not called in time; what their streams held is ready again. Only for
-- those who know that Redis was in reach all that time: else the others could not call either.
local function prune_listeners(now, settings)
  local total = 0
  local entries = redis.call('HGETALL', LISTENERS)
  for index = 1, #entries, 2 do
    local node = entries[index]
    local _, deadline = unpack_listener(entries[index + 1])
    if deadline <= now then
      local numbers, members = of_node(HELD, node, DUE_PER_CALL)
      call_chunked('ZREM', HELD, members)
      total = total + end_leases(numbers, now, 'the node that delivered it died', settings)
      if #numbers < DUE_PER_CALL then redis.call('HDEL', LISTENERS, node) end
    end
  end
  return total
end

-- Makes ready what is due: leases that ran out, delays that are over, and wakes those who wait for
-- it: whoever calls this may want less than there is now.
-- Returns how many became ready. O(log n) a message that is due, nothing for the others.
local function advance(now, settings)
  if redis.call('EXISTS', LEASED, DELAYED) == 0 then return 0 end
  settings = settings or read_settings()
  local total = 0
  local over = redis.call('ZRANGEBYSCORE', LEASED, '-inf', score(now), 'LIMIT', 0, DUE_PER_CALL)
  if #over > 0 then
    total = end_leases(over, now, 'the lease ran out', settings)
    redis.call('HINCRBY', RECORD, 'expired_leases', #over)
  end
  local due = redis.call('ZRANGEBYSCORE', DELAYED, '-inf', score(now), 'LIMIT', 0, DUE_PER_CALL)
  for first = 1, #due, RETURN_STEP do
    local part = {unpack(due, first, math.min(first + RETURN_STEP - 1, #due))}
    local records, found, found_records = redis.call('HMGET', MESSAGES, unpack(part)), {}, {}
    redis.call('ZREM', DELAYED, unpack(part))
    for index, number in ipairs(part) do
      if records[index] then
        found[#found + 1] = number
        found_records[#found_records + 1] = records[index]
      end
    end
    make_ready(found, found_records)
    total = total + #found
  end
  if total > 0 then wake() end
  return total
end
