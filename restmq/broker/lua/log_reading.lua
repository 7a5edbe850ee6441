-- log_reading.lua: reads a range of a log. Shared by the scripts that do, after log_common.lua.

-- Entries that one call looks at in vain; the rest waits for the next call.
local MOST_SKIPPED = 2000

-- What the members that a read wants begin with: one sequence each, all in order of ids.
local function sequences_of(scope, path, partition)
  if scope == 'partition' then return {'e' .. partition} end
  if scope == 'exact' then return {'p' .. path .. '\0' .. partition} end
  if scope == 'subtree' then return {'s' .. path .. '\0' .. partition} end
  local prefixes = {}
  for _, ancestor in ipairs(line_of(path)) do
    prefixes[#prefixes + 1] = 'p' .. ancestor .. '\0' .. partition
  end
  return prefixes
end

-- The next fields of one sequence, at most `step`.
local function fields_of(prefix, position, inclusive, newest_first, step)
  local members
  local bound = (inclusive and '[' or '(') .. prefix .. position
  if newest_first then
    if position == '' then bound = '[' .. prefix .. END end
    members = redis.call('ZREVRANGEBYLEX', ORDER, bound, '[' .. prefix, 'LIMIT', 0, step)
  else
    if position == '' then bound = '[' .. prefix end
    members = redis.call('ZRANGEBYLEX', ORDER, bound, '[' .. prefix .. END, 'LIMIT', 0, step)
  end
  for index = 1, #members do members[index] = string.sub(members[index], -ID_LENGTH - 1) end
  return members
end

-- The next fields of several sequences in one order, and whether these are the last. What lies
-- beyond the end of a sequence that was not read to its end must wait: more may come before it.
local function merged_fields(prefixes, position, inclusive, newest_first, step)
  if #prefixes == 1 then
    local fields = fields_of(prefixes[1], position, inclusive, newest_first, step)
    return fields, #fields < step
  end
  local function precedes(one, other)
    if newest_first then return one > other end
    return one < other
  end
  local all, horizon = {}, nil
  for _, prefix in ipairs(prefixes) do
    local fields = fields_of(prefix, position, inclusive, newest_first, step)
    for _, field in ipairs(fields) do all[#all + 1] = field end
    if #fields == step and (not horizon or precedes(fields[step], horizon)) then
      horizon = fields[step]
    end
  end
  table.sort(all, precedes)
  while horizon and #all > 0 and precedes(horizon, all[#all]) do all[#all] = nil end
  return all, horizon == nil
end

-- Makes the test whether a record is wanted; nil if every record is.
local function make_filter(now, source)
  -- If all that is due has been cleared away, nothing that is left has expired.
  local some_expired = clear_expired(now)
  if not some_expired and source == '' then return nil end
  local packed_source = string.char(#source) .. source
  local last = 16 + #packed_source
  return function(record)
    if source ~= '' and string.sub(record, 17, last) == packed_source then return false end
    if not some_expired then return true end
    local expires = expiry_of(record)
    return expires == 0 or expires > now
  end
end

-- Reads up to `count` live entries, and stops once their records reach `max_bytes`; the first is
-- read in any case. `position` is an id, or '' for the end where reading begins.
-- Returns {field looked at last or '', 1 if there is nothing more now, now as a double, field,
-- record, field, record, ...}.
local function read_entries(now, query)
  local is_wanted = make_filter(now, query.without_source)
  local count, max_bytes = query.count, query.max_bytes
  local last, position, inclusive = '', query.position, query.inclusive
  local reply = {last, 1, struct.pack('>d', now)}
  local taken, bytes, examined = 0, 0, 0
  while true do
    local step = math.min(count - taken, STEP)
    if taken > 0 then
      -- Only as many are read at once as should fit, going by those that came before.
      step = math.max(1, math.min(step, math.ceil((max_bytes - bytes) * taken / bytes)))
    end
    local fields, is_end =
      merged_fields(query.prefixes, position, inclusive, query.newest_first, step)
    local records = #fields > 0 and redis.call('HMGET', ENTRIES, unpack(fields)) or {}
    for index = 1, #fields do
      if taken >= count or (taken > 0 and bytes >= max_bytes) then
        reply[1], reply[2] = last, 0
        return reply
      end
      local record = records[index]
      last = fields[index]
      if record and (not is_wanted or is_wanted(record)) then
        taken, bytes = taken + 1, bytes + #record
        reply[2 + 2 * taken], reply[3 + 2 * taken] = last, record
      end
    end
    examined = examined + #fields
    reply[1] = last
    if is_end then return reply end
    if taken >= count or bytes >= max_bytes or examined - taken >= MOST_SKIPPED then
      reply[2] = 0
      return reply
    end
    position, inclusive = string.sub(last, 2), false
  end
end
