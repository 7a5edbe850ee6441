-- log_common.lua: what every script of a log shares. broker/log_scripts.py puts it in front.
--
-- KEYS   always the keys of one log, in the order of LogKeys (broker/keys.py)
-- ARGV   [1] the time in seconds, or '' for Redis's own clock (tests set it)
--        [2] the channel on which those who follow the log are woken
--        [3] bytes of an id: 8 (numbers) or 16 (times)
--        the script's own arguments follow from [4]
--
-- A field is one byte of partition, then the id: what a hash entry is known by. ENTRIES holds
-- field to record, and beside these `last` and `attributes`, which are shorter or longer than any
-- field. ORDER is one sorted set, all scores 0, so in byte order, in four sections:
--
--   e <field>                                  every entry
--   p <path> NUL <field>                       entries with a path, under exactly that path
--   s <path> NUL <field>                       the same under their path and each ancestor of it
--   x <deadline> <first field> <last field>    runs of entries that were to expire together
--
-- A record is: published and expires as two big-endian doubles (expires 0 = never), then what
-- broker/log_entry.py packed: length and bytes of the source, length and bytes of the path, value.

local ENTRIES, ORDER, CURSORS = KEYS[1], KEYS[2], KEYS[3]
local ID_LENGTH = tonumber(ARGV[3])
-- Longer than any id, and after all of them.
local END = string.rep('\255', 2 * ID_LENGTH + 3)

-- Lua can pass some 8,000 values to one call; a chunk stays well below and is even, for pairs.
local CHUNK = 4000
-- Records that are read at once.
local STEP = 64
-- Expired entries that a call clears away beside its own work.
local EXPIRED_PER_CALL = 100
-- Paths that a wake-up names; beyond that it is for everyone.
local WOKEN_PATHS = 100

local function clock()
  if ARGV[1] ~= '' then return tonumber(ARGV[1]) end
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function call_chunked(command, key, arguments)
  for first = 1, #arguments, CHUNK do
    redis.call(command, key, unpack(arguments, first, math.min(first + CHUNK - 1, #arguments)))
  end
end

local function exists()
  return redis.call('HEXISTS', ENTRIES, 'attributes') == 1
end

-- nil if the log's attributes are those that are expected, or none are (ARGV[4] is ''); else what
-- it has, with the time of creation in front; '' if it has none.
local function unexpected()
  if ARGV[4] == '' then return nil end
  local found = redis.call('HGET', ENTRIES, 'attributes') or ''
  if found ~= '' and string.sub(found, 9) == ARGV[5] then return nil end
  return found
end

-- The last id given, as two halves of its first 8 bytes, and the latest time of publishing.
local function read_last()
  local last = redis.call('HGET', ENTRIES, 'last')
  if not last then return 0, 0, 0 end
  return struct.unpack('>I4I4d', last)
end

local function write_last(high, low, published)
  redis.call('HSET', ENTRIES, 'last', struct.pack('>I4I4d', high, low, published))
end

local function expiry_of(record)
  local _, expires = struct.unpack('>dd', record)
  return expires
end

local function path_of(record)
  local at = 18 + string.byte(record, 17)
  local high, low = string.byte(record, at, at + 1)
  return string.sub(record, at + 2, at + 1 + high * 256 + low)
end

-- A path and its ancestors, longest last: /a/b gives /a and /a/b.
local function line_of(path)
  local line = {}
  local slash = string.find(path, '/', 2, true)
  while slash do
    line[#line + 1] = string.sub(path, 1, slash - 1)
    slash = string.find(path, '/', slash + 1, true)
  end
  line[#line + 1] = path
  return line
end

-- What stands in front of the field in an entry's members beside the first. Remembered during the
-- call, as entries that come together mostly share few paths.
local SECTIONS = {[''] = {}}
local function sections_of(path)
  local sections = SECTIONS[path]
  if sections then return sections end
  sections = {'p' .. path .. '\0'}
  for _, ancestor in ipairs(line_of(path)) do
    sections[#sections + 1] = 's' .. ancestor .. '\0'
  end
  SECTIONS[path] = sections
  return sections
end

-- Appends to `members` those of an entry beside the first, with `score` in front of each if given;
-- returns how many there are.
local function list_paths(members, field, path, score)
  local count = #members
  for _, section in ipairs(sections_of(path)) do
    if score then
      count = count + 1
      members[count] = score
    end
    count = count + 1
    members[count] = section .. field
  end
  return count
end

local function run_member(expires, first, last)
  return 'x' .. struct.pack('>d', expires) .. first .. last
end

-- Removes entries, which exist. O(log n) each.
local function remove(fields, records)
  if #fields == 0 then return end
  local members = {}
  for index, field in ipairs(fields) do
    local record = records[index]
    members[#members + 1] = 'e' .. field
    list_paths(members, field, path_of(record))
    local expires = expiry_of(record)
    -- A run of others stays until it is due, as it may be needed.
    if expires > 0 then members[#members + 1] = run_member(expires, field, field) end
  end
  call_chunked('ZREM', ORDER, members)
  call_chunked('HDEL', ENTRIES, fields)
  if redis.call('ZLEXCOUNT', ORDER, '-', '(f') == 0 then redis.call('DEL', ORDER) end
end

-- Reads the records of fields, a step at a time so as not to hold more than that, and calls
-- `visit(fields, records)` for each step, missing ones left out.
local function read_in_steps(fields, visit)
  for first = 1, #fields, STEP do
    local last = math.min(first + STEP - 1, #fields)
    local found = redis.call('HMGET', ENTRIES, unpack(fields, first, last))
    local some, records = {}, {}
    for index, record in ipairs(found) do
      if record then
        some[#some + 1] = fields[first + index - 1]
        records[#records + 1] = record
      end
    end
    visit(some, records)
  end
end

-- The fields of entries from one to another, both inclusive, and whether there are more.
local function fields_between(lower, upper, most)
  local members = redis.call('ZRANGEBYLEX', ORDER, lower, upper, 'LIMIT', 0, most + 1)
  local has_more = #members > most
  if has_more then members[#members] = nil end
  for index, member in ipairs(members) do members[index] = string.sub(member, 2) end
  return members, has_more
end

local function due_runs(now, most)
  return redis.call('ZRANGEBYLEX', ORDER, '[x', '[x' .. struct.pack('>d', now) .. END, 'LIMIT', 0,
    most)
end

-- Clears entries whose time is over, looking at no more than about `most`; returns whether there
-- may be more. O(log n) an entry; next to nothing if none is due.
local function clear_expired(now, most)
  local left = most or EXPIRED_PER_CALL
  while left > 0 do
    local runs = due_runs(now, math.min(left, STEP))
    if #runs == 0 then return false end
    for _, run in ipairs(runs) do
      if left <= 0 then return true end
      local first = string.sub(run, 10, 10 + ID_LENGTH)
      local last = string.sub(run, 11 + ID_LENGTH)
      local fields, has_more = fields_between('[e' .. first, '[e' .. last, left)
      read_in_steps(fields, function(some, records)
        local gone, gone_records = {}, {}
        for index, record in ipairs(records) do
          local expires = expiry_of(record)
          if expires > 0 and expires <= now then
            gone[#gone + 1] = some[index]
            gone_records[#gone_records + 1] = record
          end
        end
        remove(gone, gone_records)
      end)
      redis.call('ZREM', ORDER, run)
      left = left - #fields - 1
      if has_more then
        -- What is left of the run, from the next entry on.
        local deadline = struct.unpack('>d', string.sub(run, 2, 9))
        local upcoming = redis.call('ZRANGEBYLEX', ORDER, '(e' .. fields[#fields], '[e' .. last,
          'LIMIT', 0, 1)
        if #upcoming > 0 then
          local from = string.sub(upcoming[1], 2)
          redis.call('ZADD', ORDER, 0, run_member(deadline, from, last))
        end
      end
    end
  end
  return #due_runs(now, 1) > 0
end

-- Removes up to `most` entries of a partition, up to and including an id ('' = all); returns how
-- many, and 1 if there are more. O(log n) each.
local function discard(partition, through, most)
  local upper = through == '' and END or through
  local fields, has_more = fields_between('[e' .. partition, '[e' .. partition .. upper, most)
  read_in_steps(fields, remove)
  return #fields, has_more and 1 or 0
end

-- Forgets all entries, and leaves what the log knows beside them.
local function truncate()
  local kept = redis.call('HMGET', ENTRIES, 'last', 'attributes')
  redis.call('UNLINK', ENTRIES, ORDER)
  if kept[1] then redis.call('HSET', ENTRIES, 'last', kept[1]) end
  if kept[2] then redis.call('HSET', ENTRIES, 'attributes', kept[2]) end
end

-- Tells whoever follows the log that there is something new: under these paths, or anywhere ('').
local function wake(paths)
  redis.call('PUBLISH', ARGV[2], paths or '')
end
