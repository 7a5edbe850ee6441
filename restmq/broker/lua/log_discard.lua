-- log_discard.lua: removes the oldest entries of a partition.
--
-- ARGV   [4] partition (one byte)  [5] the last id to go ('' = all of them)  [6] most entries
-- reply  {how many went, 1 if there are more}
-- cost   O(log n) an entry

return {discard(ARGV[4], ARGV[5], tonumber(ARGV[6]))}
