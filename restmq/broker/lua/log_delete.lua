-- log_delete.lua: deletes a log. Numbers are never given again, so the last one stays.
--
-- reply  1 if there was anything, else 0
-- cost   O(1); what was in it is freed in the background

local last = ID_LENGTH == 8 and redis.call('HGET', ENTRIES, 'last')
local existed = redis.call('EXISTS', ORDER, CURSORS) > 0 or exists()
redis.call('UNLINK', ENTRIES, ORDER, CURSORS)
if last then redis.call('HSET', ENTRIES, 'last', last) end
wake()
return existed and 1 or 0
