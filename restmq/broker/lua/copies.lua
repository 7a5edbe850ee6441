-- copies.lua: the way of messages to the queues that copy this one.
--
-- ARGV   [5] how many at the most  [6] most bytes (one more may pass it)
--        [7...] numbers whose copies have arrived
-- reply  {MessagePack list of the queues that get copies, entry, entry, ...}, the oldest first
--        entry: number, expires (absolute, 0 = never), ready at (0 = at once) as doubles, then the packed message
-- cost   O(1) a message, and O(numbers) for what has arrived

local LOOK = 200

local arrived = {}
for index = 7, #ARGV do arrived[ARGV[index]] = true end
if #ARGV >= 7 then
  for _, entry in ipairs(redis.call('LRANGE', COPIES, 0, LOOK - 1)) do
    if arrived[string.format('%.0f', struct.unpack('>d', entry))] then
      redis.call('LREM', COPIES, 1, entry)
    end
  end
end
local settings = read_settings()
local reply, bytes = {cmsgpack.pack(settings.copies_to or {})}, 0
for _, entry in ipairs(redis.call('LRANGE', COPIES, 0, tonumber(ARGV[5]) - 1)) do
  if bytes >= tonumber(ARGV[6]) then break end
  reply[#reply + 1] = entry
  bytes = bytes + #entry
end
return reply
