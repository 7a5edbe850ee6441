-- log_cursor_remove.lua: takes a client's cursor away, and what nobody is left to read.
--
-- ARGV   [4] client  [5] entries to discard at the most
-- reply  {1 if it had a cursor, 1 if there is more to discard, the last number to go}
-- cost   O(log n), and an entry discarded; O(1) if all go

if redis.call('ZREM', CURSORS, ARGV[4]) == 0 then return {0, 0, 0} end
local lowest = redis.call('ZRANGE', CURSORS, 0, 0, 'WITHSCORES')[2]
if not lowest then
  truncate()
  return {1, 0, 0}
end
lowest = tonumber(lowest)
local id = struct.pack('>I4I4', math.floor(lowest / 4294967296), lowest % 4294967296)
local _, has_more = discard('\0', id, tonumber(ARGV[5]))
return {1, has_more, lowest}
