-- log_get.lua: reads entries by their ids.
--
-- ARGV   [4] most bytes (one entry may pass it)  [5...] fields
-- reply  {record, ...} in the order of the fields, nil for what is not there; ends where the bytes
--        are spent
-- cost   O(1) a field

local now, max_bytes, bytes = clock(), tonumber(ARGV[4]), 0
local reply = {}
for first = 5, #ARGV, STEP do
  local found = redis.call('HMGET', ENTRIES, unpack(ARGV, first, math.min(first + STEP - 1, #ARGV)))
  for _, record in ipairs(found) do
    if bytes >= max_bytes then return reply end
    if record then
      local expires = expiry_of(record)
      if expires > 0 and expires <= now then record = false end
    end
    if record then bytes = bytes + #record end
    reply[#reply + 1] = record
  end
end
return reply
