-- log_attributes.lua: gives a log its attributes, if they are still what the caller believes.
--
-- ARGV   [4] '1' if the caller knows attributes, '' if there must be none  [5] those it knows
--        [6] the new ones
-- reply  time of creation as a double, then the attributes; nil if somebody was faster
-- cost   O(1)

local old = redis.call('HGET', ENTRIES, 'attributes')
if (ARGV[4] == '1') ~= (old and true or false) then return false end
if old and string.sub(old, 9) ~= ARGV[5] then return false end
local new = (old and string.sub(old, 1, 8) or struct.pack('>d', clock())) .. ARGV[6]
redis.call('HSET', ENTRIES, 'attributes', new)
return new
