-- still_leased.lua: tells which deliveries are leased still, without touching them.
--
-- ARGV   [5...] items of two: number, token
-- reply  for each item: 1 if that lease runs, else 0
-- cost   O(1) an item

local now = clock()
local numbers = {}
for position = 5, #ARGV, 2 do numbers[#numbers + 1] = ARGV[position] end
local results = {}
for index, text in ipairs(read_all(STORIES, numbers)) do
  local _, token, _, deadline = unpack_story(text)
  results[index] = token == ARGV[4 + 2 * index] and deadline > now and 1 or 0
end
return results
