-- copies.lua: the way of messages to the queues that copy this one.
--
-- ARGV   [5] how many at the most  [6] most bytes (one more may pass it)
--        [7...] pairs of number and time of publishing, of those whose copies have arrived
-- reply  {MessagePack list of the queues that get copies, the last number that the queue gave,
--        entry, entry, ...}, the oldest first
--        entry: number, published (in microseconds), expires (absolute, 0 = never), ready at (0 =
--        at once) as doubles, then the packed message
-- cost   O(1) a message, and O(numbers) for what has arrived

local LOOK = 200

-- Not by number alone: a Redis that lost everything gives the same numbers to other messages.
local arrived = {}
for index = 7, #ARGV, 2 do arrived[ARGV[index] .. ':' .. ARGV[index + 1]] = true end
if #ARGV >= 7 then
  for _, entry in ipairs(redis.call('LRANGE', COPIES, 0, LOOK - 1)) do
    local number, published = struct.unpack('>dd', entry)
    if arrived[string.format('%.0f:%.0f', number, published)] then
      redis.call('LREM', COPIES, 1, entry)
    end
  end
end
local settings = read_settings()
local last = tonumber(redis.call('HGET', RECORD, 'next') or 0)
local reply, bytes = {cmsgpack.pack(settings.copies_to or {}), last}, 0
for _, entry in ipairs(redis.call('LRANGE', COPIES, 0, tonumber(ARGV[5]) - 1)) do
  if bytes >= tonumber(ARGV[6]) then break end
  reply[#reply + 1] = entry
  bytes = bytes + #entry
end
return reply
