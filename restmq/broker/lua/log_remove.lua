-- log_remove.lua: removes entries by their ids.
--
-- ARGV   [4...] fields, each once
-- reply  how many there were, expired ones not counted
-- cost   O(log n) a field

local now, removed = clock(), 0
local fields = {unpack(ARGV, 4)}
read_in_steps(fields, function(some, records)
  for _, record in ipairs(records) do
    local expires = expiry_of(record)
    if expires == 0 or expires > now then removed = removed + 1 end
  end
  remove(some, records)
end)
clear_expired(now)
return removed
