-- log_cursor_read.lua: reads what lies beyond a client's cursor and moves it there, in one step;
-- then discards what all clients have read, but for some.
--
-- ARGV   [4] client  [5] most entries  [6] most bytes (one entry may pass it)
--        [7] how many entries behind the last cursor are kept
-- reply  as log_read.lua; nil if the client has no cursor
-- cost   O(log n), O(1) an entry, O(log n) an entry discarded

local cursor = redis.call('ZSCORE', CURSORS, ARGV[4])
if not cursor then return false end

local function id_of(number)
  return struct.pack('>I4I4', math.floor(number / 4294967296), number % 4294967296)
end

local now, count = clock(), tonumber(ARGV[5])
local reply = read_entries(now, {
  prefixes = sequences_of('partition', '', '\0'),
  partition = '\0',
  position = id_of(tonumber(cursor)),
  inclusive = false,
  newest_first = false,
  count = count,
  max_bytes = tonumber(ARGV[6]),
  without_source = '',
})
if reply[1] ~= '' then
  local high, low = struct.unpack('>I4I4', string.sub(reply[1], 2))
  local reached = high * 4294967296 + low
  redis.call('ZADD', CURSORS, string.format('%.0f', reached), ARGV[4])
  local lowest = tonumber(redis.call('ZRANGE', CURSORS, 0, 0, 'WITHSCORES')[2])
  local through = lowest - tonumber(ARGV[7])
  -- More may go than were read, so that what was kept for somebody who left goes in time.
  if through > 0 then discard('\0', id_of(through), 2 * count + EXPIRED_PER_CALL) end
end
return reply
