-- log_visit.lua: clears what has expired, and says when something will expire next.
--
-- ARGV   [4] expired entries to clear away at the most
-- reply  {now, time of the next deadline ('' = none; now or before = there is more to clear)}
-- cost   O(log n) an entry that goes

local now = clock()
clear_expired(now, tonumber(ARGV[4]))
local upcoming = redis.call('ZRANGEBYLEX', ORDER, '[x', '(y', 'LIMIT', 0, 1)[1]
local deadline = upcoming and struct.unpack('>d', string.sub(upcoming, 2, 9))
return {string.format('%.6f', now), deadline and string.format('%.6f', deadline) or ''}
