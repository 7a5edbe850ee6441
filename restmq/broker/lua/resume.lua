-- resume.lua: reads the history for one consumer that comes back.
--
-- ARGV   [5] the number of the last message it got (0 = it wants all that is kept)
--        [6] read on from this position, '' = from that message
--        [7] up to this position; others are sent to it as they come
--        [8] most messages  [9] most bytes (one message more may pass it)
-- reply  {position reached, first and last number that are gone (0 and 0 = none), entry, ...}
-- cost   O(n) for the entries since that message, once; then O(1) an entry
--
-- What the queue's own settings do not let it keep counts as gone, though nodes may still need it.

local STEP = 100

local after, upto = tonumber(ARGV[5]), tonumber(ARGV[7])
local max_messages, max_bytes = tonumber(ARGV[8]), tonumber(ARGV[9])
local fields = redis.call('HMGET', RECORD, 'sent', 'sent_number', 'trimmed', 'policy')
local sent, length = tonumber(fields[1] or 0), redis.call('LLEN', HISTORY)
local trimmed = length == 0 and tonumber(fields[2] or 0) or tonumber(fields[3] or 0)
local settings = read_settings()
if policy_of(fields[4], settings) == '2' then return {upto, 0, 0} end

-- The index of the oldest entry that the settings let a queue keep, and the last number before.
local function find_oldest()
  local oldest, last_number = 0, 0
  if settings.history_count then oldest = math.max(length - settings.history_count, 0) end
  if oldest > 0 then
    last_number = struct.unpack('>d', redis.call('LINDEX', HISTORY, oldest - 1))
  end
  local since = settings.history_seconds and clock() - settings.history_seconds
  while since and oldest < length do
    for _, entry in ipairs(redis.call('LRANGE', HISTORY, oldest, oldest + STEP - 1)) do
      local number, sent_at = struct.unpack('>dd', entry)
      if sent_at > since then return oldest, last_number end
      oldest, last_number = oldest + 1, number
    end
  end
  return oldest, last_number
end

-- Finds the entry of the message, from the newest back; else the oldest entry that came later.
local function find()
  local oldest_later
  for last = length - 1, 0, -STEP do
    local first = math.max(last - STEP + 1, 0)
    local entries = redis.call('LRANGE', HISTORY, first, last)
    for index = #entries, 1, -1 do
      local number = struct.unpack('>d', entries[index])
      if number == after then return first + index, true end
      if number > after then oldest_later = first + index - 1 end
    end
  end
  return oldest_later or length, false
end

local index, gap_first, gap_last = nil, 0, 0
if ARGV[6] == '' then
  local found
  index, found = find()
  local oldest, last_number = find_oldest()
  if index < oldest then index, found = oldest, false end
  trimmed = math.max(trimmed, last_number)
  if not found and after > 0 and trimmed > after then gap_first, gap_last = after + 1, trimmed end
else
  index = tonumber(ARGV[6]) - (sent - length)
  if index < 0 then
    gap_first, gap_last = after + 1, trimmed
    index = 0
  end
end
local reply, bytes, position = {0, gap_first, gap_last}, 0, sent - length + index
local page, at = {}, 1
while position < upto and #reply - 3 < max_messages and bytes < max_bytes do
  if at > #page then
    page, at = redis.call('LRANGE', HISTORY, index, index + STEP - 1), 1
    index = index + #page
    if #page == 0 then break end
  end
  reply[#reply + 1] = page[at]
  bytes = bytes + #page[at]
  position = position + 1
  at = at + 1
end
reply[1] = position
return reply
