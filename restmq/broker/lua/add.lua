-- add.lua: adds messages to a queue, in the order given.
--
-- ARGV   [5] a node that need not be woken, or ''
--        [6...] operations: '' and one packed message, if there is nothing else to say; else a
--        header, how each of its packed messages begins, and what each has besides. The header is
--        a MessagePack map: n (how many messages), and what was said: ttl (seconds), delay
--        (seconds), at and expires (absolute), id (idempotency key), is_copy (of another queue's
--        message: it is not refused, and not copied again)
-- reply  the number of the first message, when the others follow it without a gap; or
--        {when something is due that the caller cannot know ('' = nothing), 1 if copies wait for
--        their way to other queues, then for each operation: the number of its first message, or
--        0 if the queue is full, or -1 if too many copies wait, or {first number, how many} of the
--        operation that it repeats}
-- cost   O(1) a message, O(log n) with a ttl, a delay or a priority of its own

local DEFAULT_DEDUPE_SECONDS = 300
-- A copy is sent again until it is known to have arrived, however the queue is set.
local COPY_DEDUPE_SECONDS = 900
-- So many copies may wait, while the queues that they are for cannot be reached, before publishers
-- are refused; the last operation may pass it.
local MAX_COPIES = 10000
local IDS_PER_CALL = 100
local SHORT_SECONDS = 2

local now = clock()
local fields = redis.call('HMGET', RECORD, 'next', 'settings', 'rate_in', 'purged')
local last = tonumber(fields[1] or 0)
local settings = {}
if fields[2] or ARGV[4] ~= '' then settings = merge_settings(fields[2]) end
local overflow = settings.overflow or DEFAULT_OVERFLOW
local has_copies = settings.copies_to and #settings.copies_to > 0
local copies_waiting = has_copies and redis.call('LLEN', COPIES) or 0
local waiting
if settings.max_length then
  advance(now, settings)
  waiting = waiting_count(now)
end

local listed, ranked, bodies, deadlines, delays, copies = {}, {}, {}, {}, {}, {}
-- The first two stand for what the header of this file calls due and copies.
local results, due, is_plain = {'', has_copies and 1 or 0}, nil, true
local first = last + 1

local function note_due(at)
  if not due or at < due then due = at end
end

local stored_count, listed_count = 0, 0

-- Stores the messages of one operation, which stand behind `position`, where their beginning is.
local function store(position, count, expires, ready_at, is_copy)
  local start = struct.pack('>dd', now, expires) .. ARGV[position]
  local is_delayed = ready_at > now
  for index = position + 1, position + count do
    local record = start .. ARGV[index]
    last = last + 1
    -- Spelt once: Redis is slow at spelling numbers itself.
    local number = string.format('%.0f', last)
    bodies[2 * stored_count + 1] = number
    bodies[2 * stored_count + 2] = record
    stored_count = stored_count + 1
    if expires > 0 then
      deadlines[#deadlines + 1] = score(expires)
      deadlines[#deadlines + 1] = number
    end
    local priority = priority_of(record)
    if is_delayed then
      delays[#delays + 1] = score(ready_at)
      delays[#delays + 1] = number
    elseif priority == DEFAULT_PRIORITY then
      listed_count = listed_count + 1
      listed[listed_count] = number
    else
      ranked[#ranked + 1] = rank(priority, last)
      ranked[#ranked + 1] = number
    end
    if has_copies and not is_copy then
      copies[#copies + 1] = struct.pack('>dddd', last, math.floor(now * 1000000), expires,
        is_delayed and ready_at or 0) .. string.sub(record, 17)
    end
  end
end

-- The operation that had this idempotency key lately: first number and how many, or nil. A purge
-- forgets those of publishers, whose messages are gone, but not copies, which may be sent again.
local function find_repeated(id, is_copy)
  local known = redis.call('HGET', IDS, id)
  if not known then return nil end
  local number, count, deadline = struct.unpack('>ddd', known)
  if deadline <= now or not is_copy and number <= tonumber(fields[4] or 0) then return nil end
  return {number, count}
end

local function remember_id(id, number, count, is_copy)
  local seconds = settings.dedupe_seconds or DEFAULT_DEDUPE_SECONDS
  if is_copy then seconds = math.max(seconds, COPY_DEDUPE_SECONDS) end
  if seconds == 0 then return end
  local deadline = now + seconds
  redis.call('HSET', IDS, id, struct.pack('>ddd', number, count, deadline))
  -- The first one is noted; from then on every visit finds out when it must come again.
  if redis.call('EXISTS', ID_EXPIRY) == 0 then note_due(deadline) end
  redis.call('ZADD', ID_EXPIRY, score(deadline), id)
end

-- Returns what the reply says of it.
local function perform(options, position)
  local count = options.n or 1
  -- Keys that publishers choose must not meet those of copies.
  local id = options.id and (options.is_copy and 'copy ' or 'key ') .. options.id
  local repeated = id and find_repeated(id, options.is_copy)
  if repeated then
    is_plain = false
    return repeated
  end
  if waiting and overflow == 'reject' and not options.is_copy
      and waiting + count > settings.max_length then
    is_plain = false
    return 0
  end
  if not options.is_copy and copies_waiting + #copies >= MAX_COPIES then return -1 end
  local ttl = options.ttl or settings.ttl
  local expires = options.expires or ttl and now + ttl or 0
  local ready_at = options.at or now + (options.delay or settings.delay or 0)
  if ttl and not (options.ttl or options.expires) then note_due(expires) end
  -- A delay that the caller knows was noted before, but a short one may be over too soon for that.
  if ready_at > now and (not options.delay or ready_at < now + SHORT_SECONDS) then
    note_due(ready_at)
  end
  if id then remember_id(id, last + 1, count, options.is_copy) end
  local number = last + 1
  store(position, count, expires, ready_at, options.is_copy)
  if waiting then waiting = waiting + count end
  return number
end

local position = 6
local plain_options = {}
while position <= #ARGV do
  local header = ARGV[position]
  if header == '' then
    -- It stands for the beginning of the one message as well, which has all of itself.
    results[#results + 1] = perform(plain_options, position)
    position = position + 2
  else
    local options = cmsgpack.unpack(header)
    results[#results + 1] = perform(options, position + 1)
    position = position + 2 + options.n
  end
end

-- More may leave than come, so that a queue which nobody reads does not grow for ever.
if #deadlines > 0 then clear_expired(now, EXPIRED_PER_CALL + #deadlines / 2) end
if redis.call('EXISTS', ID_EXPIRY) == 1 then
  local old = redis.call('ZRANGEBYSCORE', ID_EXPIRY, '-inf', score(now), 'LIMIT', 0, IDS_PER_CALL)
  call_chunked('HDEL', IDS, old)
  call_chunked('ZREM', ID_EXPIRY, old)
end
if last >= first then
  local rate = next_rate(fields[3], last - first + 1, now)
  redis.call('HSET', RECORD, 'next', last, 'rate_in', rate)
  call_chunked('HSET', MESSAGES, bodies)
  call_chunked('ZADD', EXPIRY, deadlines)
  call_chunked('ZADD', DELAYED, delays)
  call_chunked('RPUSH', READY, listed)
  call_chunked('ZADD', RANKED, ranked)
  call_chunked('RPUSH', COPIES, copies)
  if waiting and overflow ~= 'reject' then
    shed(waiting - settings.max_length, overflow, now)
  end
  if #listed + #ranked > 0 then wake(ARGV[5]) end
end
if is_plain and not due and not has_copies then return first end
results[1] = due and score(due) or ''
return results
