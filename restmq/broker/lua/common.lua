-- common.lua: what every script of a queue shares. broker/linking.py puts those definitions of it,
-- and of the other shared files, in front of a script that it uses.
--
-- KEYS   always the keys of one queue, in the order of QueueKeys (broker/keys.py)
-- ARGV   [1] the time in seconds, or '' for Redis's own clock (tests set it)
--        [2] what the wake-up channel of a node starts with
--        [3] the queue's name, which is the payload of a wake-up
--        [4] MessagePack map: what the node's patterns set for this queue, '' = nothing
--        the script's own arguments follow from [5]
--
-- A stored record is: published and expires as two big-endian doubles (expires 0 = never), then
-- what broker/message.py packed, of which the first byte is the priority.
--
-- A message whose number is in MESSAGES is in exactly one state: leased or delayed if the sorted
-- set of that name has its number, else ready. Dead ones have a room of their own.

local RECORD = KEYS[1]
local READY = KEYS[2]
local RANKED = KEYS[3]
local STALE = KEYS[4]
local MESSAGES = KEYS[5]
local EXPIRY = KEYS[6]
local GETS = KEYS[7]
local POPPED = KEYS[8]
local STORIES = KEYS[9]
local LEASED = KEYS[10]
local HELD = KEYS[11]
local DELAYED = KEYS[12]
local DEAD = KEYS[13]
local DEAD_MESSAGES = KEYS[14]
local DEAD_EXPIRY = KEYS[15]
local IDS = KEYS[16]
local ID_EXPIRY = KEYS[17]
local COPIES = KEYS[18]
local NODES = KEYS[19]
local LISTENERS = KEYS[20]
local ASSIGNED = KEYS[21]
local HISTORY = KEYS[22]
local TAKEN = KEYS[23]

-- Lua can pass some 8,000 values to one call; a chunk stays well below and is even, for pairs.
local CHUNK = 4000
-- A rate is an average that forgets: what is so old counts for a third.
local RATE_SECONDS = 10

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

-- Reads one field of many entries of a hash; the result has false where there is none.
local function read_all(hash, fields)
  if #fields == 0 then return {} end
  if #fields <= CHUNK then return redis.call('HMGET', hash, unpack(fields)) end
  local found = {}
  for first = 1, #fields, CHUNK do
    local last = math.min(first + CHUNK - 1, #fields)
    for index, value in ipairs(redis.call('HMGET', hash, unpack(fields, first, last))) do
      found[first + index - 1] = value
    end
  end
  return found
end

-- The queue's settings: its own, which `own` packs (false = none), over those of the patterns.
local function merge_settings(own)
  local settings = ARGV[4] ~= '' and cmsgpack.unpack(ARGV[4]) or {}
  if own then
    for name, value in pairs(cmsgpack.unpack(own)) do settings[name] = value end
  end
  -- The explicit value for "no limit", which hides what a pattern says.
  if settings.ttl == 'none' then settings.ttl = nil end
  if settings.max_length == 'none' then settings.max_length = nil end
  return settings
end

-- Policy and status as the record spells them; what was set for the queue hides the patterns.
local function policy_of(field, settings)
  return field or settings.policy and (settings.policy == 'roundrobin' and '2' or '1')
end

local function status_of(field, settings)
  return field or settings.status and (settings.status == 'stop' and '0' or '1')
end

local function read_settings()
  return merge_settings(redis.call('HGET', RECORD, 'settings'))
end

local function expires_at(record)
  local _, expires = struct.unpack('>dd', record)
  return expires
end

local function has_expired(record, now)
  local expires = expires_at(record)
  return expires > 0 and expires <= now
end

-- What a rate is after `count` more; packed as value and time. Read it with count 0.
local function next_rate(packed, count, now)
  local value, at = 0, now
  if packed then value, at = struct.unpack('>dd', packed) end
  value = value * math.exp(math.min(at - now, 0) / RATE_SECONDS) + count / RATE_SECONDS
  return struct.pack('>dd', value, now), value
end

local function count_out(count, now)
  if count == 0 then return end
  local packed = next_rate(redis.call('HGET', RECORD, 'rate_out'), count, now)
  redis.call('HSET', RECORD, 'rate_out', packed)
end

local function interleave(numbers, records)
  local reply = {}
  for index, number in ipairs(numbers) do
    reply[2 * index - 1] = tonumber(number)
    reply[2 * index] = records[index]
  end
  return reply
end

-- Tells every node that has consumers of this queue, or callers that wait for it, but one, that
-- there is something to look at.
local function wake(except)
  for _, node in ipairs(redis.call('HKEYS', NODES)) do
    if node ~= except then redis.call('PUBLISH', ARGV[2] .. node, ARGV[3]) end
  end
  for _, node in ipairs(redis.call('HKEYS', LISTENERS)) do
    if node ~= except then redis.call('PUBLISH', ARGV[2] .. node, ARGV[3]) end
  end
end
