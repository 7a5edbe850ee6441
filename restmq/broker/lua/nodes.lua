-- nodes.lua: which nodes serve plain streams of the queue, and what is assigned to each.
--
-- A node's entry in NODES: its consumers, when it counts as dead, how far it read the history.
-- ASSIGNED holds `<node>:<number>` of ready messages whose round-robin turn fell to that node.

local function pack_node(consumers, deadline, position)
  return string.format('%d %.3f %.0f', consumers, deadline, position)
end

local function unpack_node(text)
  local consumers, deadline, position = string.match(text, '^(%d+) ([%d.]+) (-?%d+)$')
  return tonumber(consumers), tonumber(deadline), tonumber(position)
end

-- The members of a set that belong to a node, without its name.
local function of_node(set, node, most)
  local first, last = '[' .. node .. ':', '(' .. node .. ';'
  local members
  if most then
    members = redis.call('ZRANGEBYLEX', set, first, last, 'LIMIT', 0, most)
  else
    members = redis.call('ZRANGEBYLEX', set, first, last)
  end
  local numbers = {}
  for index, member in ipairs(members) do
    numbers[index] = string.format('%.0f', tonumber(string.sub(member, #node + 2)))
  end
  return numbers, members
end

-- Gives what is assigned to a node back; returns how many there were.
local function return_assigned(node)
  local numbers, members = of_node(ASSIGNED, node)
  if #members == 0 then return 0 end
  call_chunked('ZREM', ASSIGNED, members)
  local records, kept, kept_records = read_all(MESSAGES, numbers), {}, {}
  for index, number in ipairs(numbers) do
    if records[index] then
      kept[#kept + 1] = number
      kept_records[#kept_records + 1] = records[index]
    end
  end
  make_ready(kept, kept_records)
  return #kept
end

-- Forgets nodes that have not called in time, gives back what was assigned to them, and wakes
-- those who wait for it.
local function prune_nodes(now)
  local entries, total = redis.call('HGETALL', NODES), 0
  for index = 1, #entries, 2 do
    local deadline = select(2, unpack_node(entries[index + 1]))
    if deadline <= now then
      redis.call('HDEL', NODES, entries[index])
      total = total + return_assigned(entries[index])
    end
  end
  if total > 0 then wake() end
end
