-- delete.lua: removes one message wherever it is, or the memory of one that was popped lately.
--
-- ARGV   [4] number
-- reply  1 if there was such a message, else 0
-- cost   O(1) amortised. The number itself stays in the list, where it costs a few bytes, until
--        the head passes it, or until such numbers outweigh the live ones and all are swept out.

local number = ARGV[4]
local record = redis.call('HGET', MESSAGES, number)
if not record then return forget_popped(number) end
local now = clock()
local expired = has_expired(record, now)
forget({number})
sweep_ghosts()
return expired and 0 or 1
