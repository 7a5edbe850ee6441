-- delete.lua: removes one message wherever it is, or the memory of one that was popped lately.
--
-- ARGV   [4] number
-- reply  1 if there was such a message, else 0
-- cost   O(1) amortised. The number itself stays in the list, where it costs a few bytes, until
--        the head passes it, or until such numbers outweigh the live ones and all are swept out.

local GHOSTS_ALLOWED = 1000

local number = ARGV[4]
local record = redis.call('HGET', MESSAGES, number)
if not record then return forget_popped(number) end
local now = clock()
local expired = has_expired(record, now)
forget({number})
local live, listed = redis.call('HLEN', MESSAGES), redis.call('LLEN', READY)
if live == 0 then
  redis.call('DEL', READY)
elseif listed - live > GHOSTS_ALLOWED and listed > 2 * live then
  for _ = 1, math.ceil(listed / CHUNK) do
    local numbers = redis.call('LPOP', READY, math.min(CHUNK, listed))
    if not numbers then break end
    listed = listed - #numbers
    local found, kept = redis.call('HMGET', MESSAGES, unpack(numbers)), {}
    for index, kept_number in ipairs(numbers) do
      if found[index] then kept[#kept + 1] = kept_number end
    end
    call_chunked('RPUSH', READY, kept)
  end
end
return expired and 0 or 1
