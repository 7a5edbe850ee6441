-- log_put.lua: stores one entry under each of several ids, in place of what was there.
--
-- ARGV   [4] '1' if the log must have certain attributes  [5] those
--        [6] ttl in seconds ('' = none)
--        [7] how many seconds a time may lie beyond the clock and the last id given ('' = any)
--        [8] packed entry  [9...] fields
-- reply  nil; if the log has other attributes: time of its creation as a double, then those; '' if
--        it has none; 1 if a time lies beyond that
-- cost   O(log n) a field

local other = unexpected()
if other then return other end

local now = clock()
if ARGV[7] ~= '' then
  -- Ticks of 100 ns since 1582, to within some 10 microseconds.
  local high, low = read_last()
  local latest = math.max((now + 12219292800) * 10000000, high * 4294967296 + low)
  latest = latest + tonumber(ARGV[7]) * 10000000
  for index = 9, #ARGV do
    high, low = struct.unpack('>I4I4', string.sub(ARGV[index], 2))
    if high * 4294967296 + low > latest then return 1 end
  end
end
clear_expired(now)
local expires = ARGV[6] == '' and 0 or now + tonumber(ARGV[6])
local record = struct.pack('>dd', now, expires) .. ARGV[8]
local path = path_of(record)
local fields, members, records = {}, {}, {}
for index = 9, #ARGV do
  local field = ARGV[index]
  fields[#fields + 1] = field
  records[#records + 1] = field
  records[#records + 1] = record
  members[#members + 1] = '0'
  members[#members + 1] = 'e' .. field
  list_paths(members, field, path, '0')
  if expires > 0 then
    members[#members + 1] = '0'
    members[#members + 1] = run_member(expires, field, field)
  end
end
read_in_steps(fields, remove)
call_chunked('ZADD', ORDER, members)
call_chunked('HSET', ENTRIES, records)
-- No number may be given that somebody has used already; times are made unique by their second half.
if ID_LENGTH == 8 then
  local high, low, published = read_last()
  for _, field in ipairs(fields) do
    local field_high, field_low = struct.unpack('>I4I4', string.sub(field, 2))
    if field_high > high or field_high == high and field_low > low then
      high, low = field_high, field_low
    end
  end
  write_last(high, low, published)
end
wake(path)
return false
