-- log_begin.lua: has a log of numbers go on after a number, if it has not come so far yet.
--
-- ARGV   [4] the number
-- reply  1 if that changed anything, else 0
-- cost   O(1)

local number = tonumber(ARGV[4])
local wanted_high, wanted_low = math.floor(number / 4294967296), number % 4294967296
local high, low, published = read_last()
if high > wanted_high or high == wanted_high and low >= wanted_low then return 0 end
write_last(wanted_high, wanted_low, published)
return 1
