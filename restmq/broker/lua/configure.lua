-- configure.lua: sets one field of a queue's record.
--
-- ARGV   [4] field  [5] value
-- reply  1
-- cost   O(1)

redis.call('HSET', RECORD, ARGV[4], ARGV[5])
wake()
return 1
