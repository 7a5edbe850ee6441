-- log_cursor_set.lua: gives a client a cursor in a log of numbers, or moves it.
--
-- ARGV   [4] client  [5] earliest (before the oldest entry), latest (after the last number given),
--        current (where it is, else as latest), or a number (that, or the last given if lower)
-- reply  the cursor: the number of the entry before the one that is read next
-- cost   O(log n)

local function last_number()
  local high, low = read_last()
  return high * 4294967296 + low
end

local cursor = tonumber(ARGV[5])
if cursor then cursor = math.min(cursor, last_number()) end
if ARGV[5] == 'current' then cursor = tonumber(redis.call('ZSCORE', CURSORS, ARGV[4]) or nil) end
if ARGV[5] == 'earliest' then
  clear_expired(clock())
  local oldest = redis.call('ZRANGEBYLEX', ORDER, '[e\0', '(e\1', 'LIMIT', 0, 1)[1]
  if oldest then
    local high, low = struct.unpack('>I4I4', string.sub(oldest, 3))
    cursor = high * 4294967296 + low - 1
  end
end
cursor = cursor or last_number()
redis.call('ZADD', CURSORS, string.format('%.0f', cursor), ARGV[4])
return cursor
