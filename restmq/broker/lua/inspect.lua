-- inspect.lua: shows one message, in whatever state it is, without touching it.
--
-- ARGV   [5] number
-- reply  {} if there is none, else {state, record, attempts, reason of the last return,
--         when the state ends or began: lease, delay or death; '' for ready}
-- cost   O(log n)

local number = ARGV[5]
local now = clock()
advance(now)
local died = redis.call('ZSCORE', DEAD, number)
if died then
  local record, attempts, reason = unpack(cmsgpack.unpack(redis.call('HGET', DEAD_MESSAGES, number)))
  return has_expired(record, now) and {} or {'dead', record, attempts, reason, died}
end
local record = redis.call('HGET', MESSAGES, number)
if not record then return {} end
local attempts, _, _, _, reason = unpack_story(redis.call('HGET', STORIES, number))
local state, at = 'ready', ''
for name, set in pairs({leased = LEASED, delayed = DELAYED}) do
  local found = redis.call('ZSCORE', set, number)
  if found then state, at = name, found end
end
if state ~= 'leased' and has_expired(record, now) then return {} end
return {state, record, attempts, reason, at}
