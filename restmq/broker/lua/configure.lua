-- configure.lua: changes the settings of a queue, and tells what its own are.
--
-- ARGV   [5] 'fields', [6...] pairs of name and value, '' = remove: policy and status
--        or 'settings', a MessagePack map to merge in ('' = nothing), names to remove; both may
--        name policy and status as well, in the spelling of the record
--        or 'reset': removes all settings, policy and status
--        or 'copy', then policy, status and settings as this script replied elsewhere, which
--        take the place of what is here
--        or 'show': changes nothing
-- reply  {policy, status, settings as a MessagePack map}; '' for what was never set
-- cost   O(1)

local IS_FIELD = {policy = true, status = true}

local what = ARGV[5]
if what == 'fields' then
  for index = 6, #ARGV, 2 do
    if ARGV[index + 1] == '' then
      redis.call('HDEL', RECORD, ARGV[index])
    else
      redis.call('HSET', RECORD, ARGV[index], ARGV[index + 1])
    end
  end
elseif what == 'settings' then
  local packed = redis.call('HGET', RECORD, 'settings')
  local own = packed and cmsgpack.unpack(packed) or {}
  if ARGV[6] and ARGV[6] ~= '' then
    for name, value in pairs(cmsgpack.unpack(ARGV[6])) do
      if IS_FIELD[name] then redis.call('HSET', RECORD, name, value) else own[name] = value end
    end
  end
  for index = 7, #ARGV do
    if IS_FIELD[ARGV[index]] then redis.call('HDEL', RECORD, ARGV[index]) end
    own[ARGV[index]] = nil
  end
  if next(own) == nil then
    redis.call('HDEL', RECORD, 'settings')
  else
    redis.call('HSET', RECORD, 'settings', cmsgpack.pack(own))
  end
elseif what == 'copy' then
  for index, field in ipairs({'policy', 'status', 'settings'}) do
    if ARGV[5 + index] ~= '' then
      redis.call('HSET', RECORD, field, ARGV[5 + index])
    else
      redis.call('HDEL', RECORD, field)
    end
  end
elseif what == 'reset' then
  redis.call('HDEL', RECORD, 'settings', 'policy', 'status')
end
if what ~= 'show' then wake() end
local fields = redis.call('HMGET', RECORD, 'policy', 'status', 'settings')
return {fields[1] or '', fields[2] or '', fields[3] or ''}
