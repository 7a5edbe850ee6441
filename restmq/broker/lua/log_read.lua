-- log_read.lua: reads entries of one sequence of a log from a position on, in either direction.
--
-- ARGV   [4] scope: partition, exact, parents or subtree  [5] partition (one byte)  [6] path
--        [7] the id at which to begin ('' = at the end)  [8] '1' to include that id
--        [9] '1' for newest first  [10] most entries  [11] most bytes (one entry may pass it)
--        [12] source whose entries are left out ('' = none)
-- reply  {field looked at last ('' = none), 1 if there is nothing more now, now as a double,
--        field, record, ...}
-- cost   O(log n) for each sequence (one, or a segment of the path each), O(1) an entry

return read_entries(clock(), {
  prefixes = sequences_of(ARGV[4], ARGV[6], ARGV[5]),
  partition = ARGV[5],
  position = ARGV[7],
  inclusive = ARGV[8] == '1',
  newest_first = ARGV[9] == '1',
  count = tonumber(ARGV[10]),
  max_bytes = tonumber(ARGV[11]),
  without_source = ARGV[12],
})
