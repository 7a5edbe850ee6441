-- log_locate.lua: finds an entry of a partition by its place.
--
-- ARGV   [4] expired entries to clear away at the most  [5] partition (one byte)
--        [6] offset from the oldest (0), or negative from the newest (-1)
-- reply  {1 if too many had expired to tell: ask again, id ('' = there is none)}
-- cost   O(log n)

if clear_expired(clock(), tonumber(ARGV[4])) then return {1, ''} end
local section, offset = 'e' .. ARGV[5], tonumber(ARGV[6])
local before = redis.call('ZLEXCOUNT', ORDER, '-', '(' .. section)
local count = redis.call('ZLEXCOUNT', ORDER, '[' .. section, '[' .. section .. END)

if offset < 0 then offset = count + offset end
if offset < 0 or offset >= count then return {0, ''} end
return {0, string.sub(redis.call('ZRANGE', ORDER, before + offset, before + offset)[1], 3)}
