-- log_append.lua: appends entries to a log, in the order given, under ids that follow the last.
--
-- ARGV   [4] '1' if the log must have certain attributes  [5] those
--        [6] last 8 bytes of each id, for ids that are times, else ''
--        [7...] runs: ttl in seconds ('' = none), partition (one byte), how many, packed entries
-- reply  {first 8 bytes of the first id, time of publishing as a double, 1 if the log was empty};
--        the next ids follow by one. If the log has other attributes: {time of its creation as a
--        double, then those}; {''} if it has none.
-- cost   O(log n) an entry, and as much for each segment of its path

local other = unexpected()
if other then return {other} end

-- Ticks of 100 ns from 1582-10-15, where UUIDs begin, to 1970, as two halves of 64 bits.
local EPOCH_HIGH, EPOCH_LOW = 0x01B21DD2, 0x13814000
local HALF = 4294967296

-- The clock in such ticks; every step stays below 2^53, where numbers are exact.
local function ticks_at(seconds)
  local whole = math.floor(seconds)
  local ticks = math.floor((seconds - whole) * 1000000 + 0.5) * 10
  local upper, lower = math.floor(whole / 65536) * 10000000, (whole % 65536) * 10000000
  local low = (upper % 65536) * 65536 + lower + ticks + EPOCH_LOW
  return math.floor(upper / 65536) + EPOCH_HIGH + math.floor(low / HALF), low % HALF
end

local now = clock()
local high, low, published_last = read_last()
local published = math.max(now, published_last)
low = low + 1
if low == HALF then high, low = high + 1, 0 end
if ID_LENGTH == 16 then
  local now_high, now_low = ticks_at(now)
  if now_high > high or now_high == high and now_low > low then high, low = now_high, now_low end
end
local first_id = struct.pack('>I4I4', high, low)
local is_first = redis.call('EXISTS', ORDER) == 0

local suffix = ARGV[6]
local members, records, open, runs = {}, {}, {}, {}
local paths, path_count = {}, 0

-- What stands in front of a record, by its time to live.
local heads, deadlines = {[''] = struct.pack('>dd', published, 0)}, {}
local function head_of(ttl)
  deadlines[ttl] = now + tonumber(ttl)
  heads[ttl] = struct.pack('>dd', published, deadlines[ttl])
  return heads[ttl]
end

-- Notes that entries of a partition expire together, with those before them if these do too.
local function note_run(partition, expires, first, last)
  local run = open[partition]
  if not expires then
    open[partition] = nil
  elseif run and run.expires == expires then
    run.last = last
  else
    run = {expires = expires, first = first, last = last}
    open[partition] = run
    runs[#runs + 1] = run
  end
end

local function note_path(path)
  if paths[path] then return end
  paths[path] = true
  path_count = path_count + 1
  if path_count <= WOKEN_PATHS then paths[path_count] = path end
end

-- Counted here, as asking a table how long it is takes longer the longer it is.
local record_count, member_count = 0, 0
local pack, byte = struct.pack, string.byte
local index, argument_count = 7, #ARGV

while index <= argument_count do
  local ttl, partition = ARGV[index], ARGV[index + 1]
  local last = index + 2 + tonumber(ARGV[index + 2])
  local head = heads[ttl] or head_of(ttl)
  local first_field, field
  for at = index + 3, last do
    local packed = ARGV[at]
    field = partition .. pack('>I4I4', high, low) .. suffix
    first_field = first_field or field
    records[record_count + 1], records[record_count + 2] = field, head .. packed
    record_count = record_count + 2
    members[member_count + 1], members[member_count + 2] = '0', 'e' .. field
    member_count = member_count + 2
    local source_size, path_high, path_low = byte(packed, 1, 3)
    if source_size == 0 and path_high == 0 and path_low == 0 then
      if not paths[''] then note_path('') end
    else
      local path = path_of(records[record_count])
      member_count = list_paths(members, field, path, '0')
      note_path(path)
    end
    low = low + 1
    if low == HALF then high, low = high + 1, 0 end
  end
  note_run(partition, deadlines[ttl], first_field, field)
  index = last + 1
end
for _, run in ipairs(runs) do
  members[#members + 1] = '0'
  members[#members + 1] = run_member(run.expires, run.first, run.last)
end

-- More may leave than come, so that a log which nobody reads does not grow for ever.
clear_expired(now, EXPIRED_PER_CALL + record_count / 2)
call_chunked('ZADD', ORDER, members)
call_chunked('HSET', ENTRIES, records)
low = low - 1
if low < 0 then high, low = high - 1, HALF - 1 end
write_last(high, low, published)
wake(path_count <= WOKEN_PATHS and table.concat(paths, '\0') or '')
return {first_id, struct.pack('>d', published), is_first and 1 or 0}
