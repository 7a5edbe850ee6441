-- peek.lua: lists messages that are ready, without taking or counting anything.
--
-- ARGV   [5] how many at the most  [6] 'oldest' (next first) or 'newest' (last first)
--        [7] most bytes (one message more may pass it)
-- reply  {number, record, number, record, ...}
-- cost   O(1) a message listed or skipped; delete.lua bounds what must be skipped

local STEP = 100

local now = clock()
advance(now)
local count, max_bytes, newest = tonumber(ARGV[5]), tonumber(ARGV[7]), ARGV[6] == 'newest'
local has_stale = redis.call('EXISTS', STALE) == 1

-- Reads one of the two sequences step by step; returns a function that gives the number at its
-- place and its rank, or nil at the end, and one that goes on to the next.
local function reader(fetch)
  local page, index, offset = fetch(0), 1, 0
  local function current()
    if index > #page and #page == STEP then
      offset = offset + STEP
      page, index = fetch(offset), 1
    end
    local entry = page[index]
    if entry then return entry[1], entry[2] end
  end
  return current, function() index = index + 1 end
end

local function fetch_listed(offset)
  local page = {}
  local numbers
  if newest then
    numbers = redis.call('LRANGE', READY, -offset - STEP, -offset - 1)
  else
    numbers = redis.call('LRANGE', READY, offset, offset + STEP - 1)
  end
  for index = 1, #numbers do
    local number = numbers[newest and #numbers + 1 - index or index]
    page[index] = {number, LISTED_RANK + tonumber(number)}
  end
  return page
end

local function fetch_ranked(offset)
  local page = {}
  local found = redis.call(newest and 'ZREVRANGE' or 'ZRANGE', RANKED, offset, offset + STEP - 1,
    'WITHSCORES')
  for index = 1, #found, 2 do page[#page + 1] = {found[index], tonumber(found[index + 1])} end
  return page
end

local listed, next_listed = reader(fetch_listed)
local ranked, next_ranked = reader(fetch_ranked)
local reply, bytes = {}, 0
while #reply < 2 * count and bytes < max_bytes do
  local number, place = listed()
  local other, other_place = ranked()
  if not number and not other then break end
  local takes_listed = number and (not other or newest == (place > other_place))
  if takes_listed then next_listed() else next_ranked() end
  local chosen = takes_listed and number or other
  local is_stale = takes_listed and has_stale and redis.call('SISMEMBER', STALE, chosen) == 1
  local record = not is_stale and redis.call('HGET', MESSAGES, chosen)
  if record and not has_expired(record, now) then
    reply[#reply + 1] = tonumber(chosen)
    reply[#reply + 1] = record
    bytes = bytes + #record
  end
end
return reply
