-- common.lua: what every script shares. broker/scripts.py puts it in front of each of them.
--
-- KEYS   always the keys of one queue, in the order of QueueKeys (broker/keys.py)
-- ARGV   [1] the time in seconds, or '' for Redis's own clock (tests set it)
--        [2] what the wake-up channel of a node starts with
--        [3] the queue's name, which is the payload of a wake-up
--        the script's own arguments follow from [4]
--
-- A stored record is: published and expires as two big-endian doubles (expires 0 = never), then
-- what broker/message.py packed.

local RECORD, READY, MESSAGES, EXPIRY, GETS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local POPPED, NODES, ASSIGNED, HISTORY, TAKEN = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]

-- Lua can pass some 8,000 values to one call; a chunk stays well below and is even, for pairs.
local CHUNK = 4000
-- Messages that are read at once on their way out.
local POP_STEP = 64
-- Expired messages that one call clears away; the rest waits for the next call.
local EXPIRED_PER_CALL = 100
-- Numbers without a body that may stay in the list in any case.
local GHOSTS_ALLOWED = 1000
-- A reply that was lost with its connection can be asked back for so long.
local TAKEN_SECONDS = 60
-- A later delete knows popped messages for so long, and this many runs of them.
local POPPED_SECONDS = 300
local POPPED_RUNS = 1000

local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function score(seconds)
  return string.format('%.6f', seconds)
end

local function call_chunked(command, key, arguments)
  for first = 1, #arguments, CHUNK do
    redis.call(command, key, unpack(arguments, first, math.min(first + CHUNK - 1, #arguments)))
  end
end

-- Messages of the queue that have not expired, waiting or assigned to a node. O(log n).
local function live_count(now)
  return redis.call('HLEN', MESSAGES) - redis.call('ZCOUNT', EXPIRY, '-inf', score(now))
end

-- Forgets the body of messages that have just left, and all that is kept beside it.
local function forget(numbers)
  if #numbers == 0 then return end
  call_chunked('HDEL', MESSAGES, numbers)
  if redis.call('EXISTS', EXPIRY) == 1 then call_chunked('ZREM', EXPIRY, numbers) end
  if redis.call('EXISTS', GETS) == 1 then call_chunked('HDEL', GETS, numbers) end
end

-- Sweeps numbers without a body out of the list once they outweigh the others. Call it only while
-- every number that waits is in the list. O(1) amortised over the messages that left their number.
local function sweep_ghosts()
  local live, listed = redis.call('HLEN', MESSAGES), redis.call('LLEN', READY)
  if live == 0 then
    redis.call('DEL', READY)
  elseif listed - live > GHOSTS_ALLOWED and listed > 2 * live then
    for _ = 1, math.ceil(listed / CHUNK) do
      local numbers = redis.call('LPOP', READY, math.min(CHUNK, listed))
      if not numbers then break end
      listed = listed - #numbers
      local found, kept = redis.call('HMGET', MESSAGES, unpack(numbers)), {}
      for index, number in ipairs(numbers) do
        if found[index] then kept[#kept + 1] = number end
      end
      call_chunked('RPUSH', READY, kept)
    end
  end
end

local function clear_expired(now, most)
  if redis.call('EXISTS', EXPIRY) == 0 then return end
  local numbers = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', score(now), 'LIMIT', 0,
    most or EXPIRED_PER_CALL)
  if #numbers == 0 then return end
  forget(numbers)
  sweep_ghosts()
end

local function has_expired(record, now)
  local _, expires = struct.unpack('>dd', record)
  return expires > 0 and expires <= now
end

-- Puts numbers whose bodies are stored back at the head, in the order given.
local function push_head(numbers)
  local reversed = {}
  for index = #numbers, 1, -1 do reversed[#reversed + 1] = numbers[index] end
  call_chunked('LPUSH', READY, reversed)
end

-- Takes up to `count` live numbers off the head, and stops once their bodies reach `max_bytes`.
-- Numbers without a body (deleted or expired) are dropped on the way: each of them once.
-- The bodies stay stored; `forget` removes them. O(1) a message.
local function pop_ready(now, count, max_bytes)
  local numbers, records, taken, bytes = {}, {}, 0, 0
  local some_expire = redis.call('EXISTS', EXPIRY) == 1
  local step = 1
  while taken < count and bytes < max_bytes do
    local popped = redis.call('LPOP', READY, math.min(count - taken, step))
    if not popped then break end
    local found = redis.call('HMGET', MESSAGES, unpack(popped))
    local gone, too_many = {}, {}
    for index, number in ipairs(popped) do
      local record = found[index]
      if bytes >= max_bytes then
        too_many[#too_many + 1] = number
      elseif record and not (some_expire and has_expired(record, now)) then
        taken = taken + 1
        numbers[taken] = number
        records[taken] = record
        bytes = bytes + #record
      elseif record then
        gone[#gone + 1] = number
      end
    end
    forget(gone)
    push_head(too_many)
    -- Only as many bodies are read at once as should fit, going by those that came before.
    step = taken == 0 and 2 * step or math.ceil((max_bytes - bytes) * taken / bytes)
    step = math.min(math.max(step, 1), POP_STEP)
  end
  return numbers, records
end

-- Remembers a reply until the next of its flavour, so that restore.lua can undo a lost one.
local function remember_reply(batch, numbers, records)
  redis.call('SET', TAKEN, cmsgpack.pack({batch, numbers, records}), 'EX', TAKEN_SECONDS)
end

-- POPPED holds runs of numbers, first:last, because what is popped together is mostly a run.
local function remember_popped(numbers)
  local runs, first, last = {}, nil, nil
  for index = 1, #numbers + 1 do
    local number = tonumber(numbers[index])
    if last and number ~= last + 1 then
      runs[#runs + 1] = string.format('%.0f:%.0f', first, last)
      first = nil
    end
    first, last = first or number, number
  end
  for _, run in ipairs(runs) do
    if redis.call('RPUSH', POPPED, run) > POPPED_RUNS then
      redis.call('LTRIM', POPPED, -POPPED_RUNS / 2, -1)
    end
  end
  redis.call('EXPIRE', POPPED, POPPED_SECONDS)
end

-- Takes one number out of the runs; returns 1 if it was in one. O(runs), which are bounded.
local function forget_popped(text)
  local number = tonumber(text)
  for _, run in ipairs(redis.call('LRANGE', POPPED, 0, -1)) do
    local first, last = string.match(run, '^(%d+):(%d+)$')
    first, last = tonumber(first), tonumber(last)
    if first <= number and number <= last then
      redis.call('LREM', POPPED, 1, run)
      if first < number then
        redis.call('RPUSH', POPPED, string.format('%.0f:%.0f', first, number - 1))
      end
      if number < last then
        redis.call('RPUSH', POPPED, string.format('%.0f:%.0f', number + 1, last))
      end
      return 1
    end
  end
  return 0
end

local function interleave(numbers, records)
  local reply = {}
  for index, number in ipairs(numbers) do
    reply[2 * index - 1] = tonumber(number)
    reply[2 * index] = records[index]
  end
  return reply
end

-- Gives what is assigned to a node back to the head of the queue; returns how many there were.
local function return_assigned(node)
  local members = redis.call('ZRANGEBYLEX', ASSIGNED, '[' .. node .. ':', '(' .. node .. ';')
  if #members == 0 then return 0 end
  local numbers = {}
  for index, member in ipairs(members) do
    numbers[index] = string.format('%.0f', tonumber(string.sub(member, #node + 2)))
  end
  call_chunked('ZREM', ASSIGNED, members)
  push_head(numbers)
  return #numbers
end

-- A node's entry in NODES: its consumers, when it counts as dead, how far it read the history.
local function pack_node(consumers, deadline, position)
  return string.format('%d %.3f %.0f', consumers, deadline, position)
end

local function unpack_node(text)
  local consumers, deadline, position = string.match(text, '^(%d+) ([%d.]+) (-?%d+)$')
  return tonumber(consumers), tonumber(deadline), tonumber(position)
end

-- Forgets nodes that have not called in time, and gives back what was assigned to them.
local function prune_nodes(now)
  local entries = redis.call('HGETALL', NODES)
  for index = 1, #entries, 2 do
    local deadline = select(2, unpack_node(entries[index + 1]))
    if deadline <= now then
      redis.call('HDEL', NODES, entries[index])
      return_assigned(entries[index])
    end
  end
end

-- Tells every node with consumers of this queue, but one, that there is something to look at.
local function wake(except)
  for _, node in ipairs(redis.call('HKEYS', NODES)) do
    if node ~= except then redis.call('PUBLISH', ARGV[2] .. node, ARGV[3]) end
  end
end
