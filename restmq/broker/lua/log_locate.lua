-- log_locate.lua: finds an entry of a partition by its place, or by when it was published.
--
-- ARGV   [4] expired entries to clear away at the most  [5] partition (one byte)
--        [6] 'offset' (from the oldest, or negative from the newest) or 'published' (at or after)
--        [7] that offset, or that time in seconds
-- reply  {1 if too many had expired to tell: ask again, id ('' = there is none)}
-- cost   O(log n), or O(log² n) by time

if clear_expired(clock(), tonumber(ARGV[4])) then return {1, ''} end
local section, wanted = 'e' .. ARGV[5], tonumber(ARGV[7])
local before = redis.call('ZLEXCOUNT', ORDER, '-', '(' .. section)
local count = redis.call('ZLEXCOUNT', ORDER, '[' .. section, '[' .. section .. END)

local function field_at(offset)
  return string.sub(redis.call('ZRANGE', ORDER, before + offset, before + offset)[1], 2)
end

local offset = wanted
if ARGV[6] == 'offset' then
  if offset < 0 then offset = count + offset end
else
  local low, high = 0, count
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>d', redis.call('HGET', ENTRIES, field_at(middle))) < wanted then
      low = middle + 1
    else
      high = middle
    end
  end
  offset = low
end
if offset < 0 or offset >= count then return {0, ''} end
return {0, string.sub(field_at(offset), 2)}
