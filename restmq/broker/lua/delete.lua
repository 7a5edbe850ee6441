-- delete.lua: removes one message wherever it is, or the memory of one that was popped lately.
--
-- ARGV   [5] number
-- reply  1 if there was such a message, else 0
-- cost   O(log n) amortised. The number of a listed one stays in the list, where it costs a few
--        bytes, until the head passes it, or until such numbers outweigh the live ones.

local number = ARGV[5]
local now = clock()
advance(now)
local record = redis.call('HGET', MESSAGES, number)
if redis.call('ZSCORE', DEAD, number) then
  return has_expired(exhume({number})[1][1], now) and 0 or 1
end
if not record then return forget_popped(number) end
local is_leased = redis.call('ZSCORE', LEASED, number)
local gone = has_expired(record, now) and not is_leased
if is_leased then
  local _, token, holder = unpack_story(redis.call('HGET', STORIES, number))
  if holder ~= '-' then
    redis.call('ZREM', HELD, held_member(holder, number))
    publish_settled(holder, number, token)
  end
end
for _, set in ipairs({LEASED, DELAYED, RANKED}) do redis.call('ZREM', set, number) end
forget({number})
sweep_ghosts()
return gone and 0 or 1
