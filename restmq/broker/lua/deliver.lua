-- deliver.lua: hands out what waits, by the queue's policy, and tells a node what is for it.
--
-- broadcast   messages move from the list to the history, which every node reads from its own
--             position; what some live node has not read yet is never trimmed away
-- roundrobin  messages are assigned in turn over the consumers of all nodes; what falls to
--             another node is noted in ASSIGNED, its body stays stored until that node calls
--
-- ARGV   [5] node  [6] its consumers  [7] seconds until it counts as dead
--        [8] how far it has read the history  [9] '1' if its consumers have room for more
--        [10] most messages  [11] most bytes (one message more may pass it)
--        [12] history_count  [13] history_seconds, where the queue's settings say nothing
--        [14] history_bytes  [15] batch
--        [16] the generation of the history that it has read ('' = none yet)
-- reply  {epoch, position, entries missed, 1 if more can be had now, history entries, handed,
--         generation, other live nodes, the highest number that left the history}
--        history entries: {number and time sent as two doubles, then the record, ...}
--        handed: {number, record, ...} for one consumer each
-- cost   O(1) a message moved or read, O(nodes); O(log n) for a message assigned elsewhere

local node, consumers, lifetime = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local position, has_room = tonumber(ARGV[8]), ARGV[9] == '1'
local max_messages, max_bytes = tonumber(ARGV[10]), tonumber(ARGV[11])
local history_bytes_limit = tonumber(ARGV[14])

local now = clock()
local fields = redis.call('HMGET', RECORD, 'status', 'policy', 'epoch', 'sent', 'turn',
  'history_bytes', 'generation', 'sent_number', 'trimmed', 'settings', 'alone')
local epoch, sent, turn = tonumber(fields[3] or 0), tonumber(fields[4] or 0), tonumber(fields[5] or 0)
local history_exists = redis.call('EXISTS', HISTORY) == 1
local history_bytes = history_exists and tonumber(fields[6] or 0) or 0
local sent_number = tonumber(fields[8] or 0)
local trimmed = history_exists and tonumber(fields[9] or 0) or sent_number
local settings = {}
if fields[10] or ARGV[4] ~= '' then settings = merge_settings(fields[10]) end
local started = status_of(fields[1], settings) ~= '0'
local roundrobin = policy_of(fields[2], settings) == '2'
local history_count = settings.history_count or tonumber(ARGV[12])
local history_seconds = settings.history_seconds or tonumber(ARGV[13])
-- Redis may have lost what this node has read already; then all of the history is new to it.
local generation = fields[7] or ''
if ARGV[16] ~= '' and ARGV[16] ~= generation then position = 0 end
position = math.min(position, sent)

-- The live nodes, in the order of their names, which is the same in every call.
local function live_nodes()
  local nodes, known = {}, nil
  prune_nodes(now)
  local entries = redis.call('HGETALL', NODES)
  for index = 1, #entries, 2 do
    local count, deadline, read = unpack_node(entries[index + 1])
    if entries[index] == node then
      known = {count = count, deadline = deadline, read = read}
    else
      nodes[#nodes + 1] = {name = entries[index], consumers = count, read = read}
    end
  end
  -- Written only when it says something new: an entry is a write, and a write is an fsync.
  -- A position counts as new at once where what this node has read holds up the others.
  if not known or known.count ~= consumers or known.deadline - now < lifetime * 2 / 3
      or position - known.read >= 100
      or position > known.read and history_bytes > history_bytes_limit then
    redis.call('HSET', NODES, node, pack_node(consumers, now + lifetime, position))
  end
  nodes[#nodes + 1] = {name = node, consumers = consumers, read = position}
  table.sort(nodes, function(one, other) return one.name < other.name end)
  return nodes
end

local nodes = live_nodes()
clear_expired(now)
advance(now, settings)

local function slowest_read()
  local lowest = position
  for _, other in ipairs(nodes) do lowest = math.min(lowest, other.read) end
  return lowest
end

-- Drops from the history what is too much or too old and has been read by every live node.
local function trim_history(lowest)
  local length = redis.call('LLEN', HISTORY)
  while length > 0 and sent - length < lowest do
    local head = redis.call('LINDEX', HISTORY, 0)
    local number, sent_at = struct.unpack('>dd', head)
    if length <= history_count and history_bytes <= history_bytes_limit
        and sent_at > now - history_seconds then break end
    redis.call('LPOP', HISTORY)
    trimmed = math.max(trimmed, number)
    history_bytes = history_bytes - #head
    length = length - 1
  end
end

local function broadcast()
  local lowest = slowest_read()
  local room = math.max(history_count, max_messages) - (sent - lowest)
  if lowest < sent and history_bytes > history_bytes_limit then room = 0 end
  local numbers, records = pop_ready(now, math.min(max_messages, room), max_bytes)
  if #numbers == 0 then return end
  forget(numbers)
  local entries = {}
  for index, number in ipairs(numbers) do
    entries[index] = struct.pack('>dd', tonumber(number), now) .. records[index]
    history_bytes = history_bytes + #entries[index]
    sent_number = math.max(sent_number, tonumber(number))
  end
  call_chunked('RPUSH', HISTORY, entries)
  sent = sent + #numbers
  trim_history(lowest)
  -- A node that lives may need it for as long as it may stay silent.
  redis.call('EXPIRE', HISTORY, math.ceil(math.max(history_seconds, 2 * lifetime)))
  if generation == '' then generation = score(now) end
  -- Who sent it from where on, if there was nobody else; join.lua says what for.
  local alone = ''
  if #nodes == 1 then
    local sender, first = string.match(fields[11] or '', '^(%S+) (%d+)$')
    local is_unread = sender == node and tonumber(first) >= position
    alone = string.format('%s %.0f', node, is_unread and tonumber(first) or sent - #numbers)
  end
  redis.call('HSET', RECORD, 'sent', sent, 'history_bytes', history_bytes, 'alone', alone,
    'generation', generation, 'sent_number', sent_number, 'trimmed', trimmed)
  count_out(#numbers, now)
  if #nodes > 1 then wake(node) end
end

local handed_numbers, handed_records = {}, {}

-- The consumers that take part in this round: a node that lies far behind is left out.
local function ring()
  local members, total = {}, 0
  local some_assigned = redis.call('EXISTS', ASSIGNED) == 1
  for _, other in ipairs(nodes) do
    local outstanding = 0
    if some_assigned and other.name ~= node then
      outstanding = redis.call('ZLEXCOUNT', ASSIGNED, '[' .. other.name .. ':',
        '(' .. other.name .. ';')
    end
    if outstanding < max_messages then
      members[#members + 1] = other
      total = total + other.consumers
    end
  end
  return members, total
end

local function next_node(members, total)
  local place = turn % total
  turn = turn + 1
  for _, member in ipairs(members) do
    if place < member.consumers then return member.name end
    place = place - member.consumers
  end
end

local function rotate()
  local members, total = ring()
  if total == 0 then return end
  local numbers, records = pop_ready(now, max_messages, max_bytes)
  if #numbers == 0 then return end
  local elsewhere = {}
  for index, number in ipairs(numbers) do
    local chosen = next_node(members, total)
    if chosen == node then
      handed_numbers[#handed_numbers + 1] = number
      handed_records[#handed_records + 1] = records[index]
    else
      elsewhere[#elsewhere + 1] = 0
      elsewhere[#elsewhere + 1] = held_member(chosen, number)
    end
  end
  redis.call('HSET', RECORD, 'turn', turn)
  if #elsewhere > 0 then
    call_chunked('ZADD', ASSIGNED, elsewhere)
    wake(node)
  end
end

-- What other nodes assigned to this one since it last called.
local function collect()
  local numbers, members = of_node(ASSIGNED, node, max_messages)
  if #numbers == 0 then return end
  call_chunked('ZREM', ASSIGNED, members)
  for _, number in ipairs(numbers) do
    local record = redis.call('HGET', MESSAGES, number)
    if record and not has_expired(record, now) then
      handed_numbers[#handed_numbers + 1] = number
      handed_records[#handed_records + 1] = record
    end
  end
end

local function read_history()
  local length = redis.call('LLEN', HISTORY)
  local first = length - (sent - position)
  local missed = math.max(0, -first)
  local entries = redis.call('LRANGE', HISTORY, math.max(0, first),
    math.max(0, first) + max_messages - 1)
  position = position + missed + #entries
  return entries, missed
end

if has_room then
  collect()
  if started then
    if roundrobin then rotate() else broadcast() end
  end
end
local entries, missed = {}, 0
if position < sent then entries, missed = read_history() end
if #handed_numbers > 0 then
  forget(handed_numbers)
  remember_reply(ARGV[15], handed_numbers, handed_records)
  count_out(#handed_numbers, now)
end
local more = 0
if position < sent or (started and redis.call('EXISTS', READY, RANKED) > 0)
    or redis.call('EXISTS', ASSIGNED) == 1 and #of_node(ASSIGNED, node, 1) > 0 then
  more = 1
end
return {epoch, position, missed, more, entries, interleave(handed_numbers, handed_records),
  generation, #nodes - 1, trimmed}
