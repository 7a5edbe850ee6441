-- log_append.lua: appends entries to a log, in the order given, under ids that follow the last.
--
-- ARGV   [4] '1' if the log must have been given attributes
--        [5] last 8 bytes of each id, for ids that are times, else ''
--        [6...] triples: ttl in seconds ('' = none), partition (one byte), packed entry
-- reply  {first 8 bytes of the first id, time of publishing as a double, 1 if the log was empty};
--        the next ids follow by one. {} if the log must exist and does not.
-- cost   O(log n) an entry, and as much for each segment of its path

if ARGV[4] == '1' and not exists() then return {} end

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

local suffix = ARGV[5]
local members, records, open, runs = {}, {}, {}, {}
local paths, path_count = {}, 0

-- What stands in front of a record, by its time to live.
local heads, deadlines = {[''] = struct.pack('>dd', published, 0)}, {}
local function head_of(ttl)
  local head = heads[ttl]
  if not head then
    deadlines[ttl] = now + tonumber(ttl)
    head = struct.pack('>dd', published, deadlines[ttl])
    heads[ttl] = head
  end
  return head, deadlines[ttl]
end

-- Widens the partition's run if the entry expires with the one before, else opens another.
local function add_to_run(partition, field, expires)
  local run = open[partition]
  if not expires then
    open[partition] = nil
  elseif run and run.expires == expires then
    run.last = field
  else
    run = {expires = expires, first = field, last = field}
    open[partition] = run
    runs[#runs + 1] = run
  end
end

for index = 6, #ARGV, 3 do
  local ttl, partition, packed = ARGV[index], ARGV[index + 1], ARGV[index + 2]
  local field = partition .. struct.pack('>I4I4', high, low) .. suffix
  local head, expires = head_of(ttl)
  add_to_run(partition, field, expires)
  local record = head .. packed
  records[#records + 1] = field
  records[#records + 1] = record
  members[#members + 1] = '0'
  members[#members + 1] = 'e' .. field
  local path = path_of(record)
  list_paths(members, field, path, '0')
  if not paths[path] then
    paths[path] = true
    path_count = path_count + 1
    if path_count <= WOKEN_PATHS then paths[path_count] = path end
  end
  low = low + 1
  if low == HALF then high, low = high + 1, 0 end
end
for _, run in ipairs(runs) do
  members[#members + 1] = '0'
  members[#members + 1] = run_member(run.expires, run.first, run.last)
end

-- More may leave than come, so that a log which nobody reads does not grow for ever.
clear_expired(now, EXPIRED_PER_CALL + #records / 2)
call_chunked('ZADD', ORDER, members)
call_chunked('HSET', ENTRIES, records)
low = low - 1
if low < 0 then high, low = high - 1, HALF - 1 end
write_last(high, low, published)
wake(path_count <= WOKEN_PATHS and table.concat(paths, '\0') or '')
return {first_id, struct.pack('>d', published), is_first and 1 or 0}
