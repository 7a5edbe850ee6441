-- popped.lua: what was popped lately, which a later delete still knows.
--
-- POPPED holds runs of numbers, first:last, because what is popped together is mostly a run.

local POPPED_SECONDS = 300
local POPPED_RUNS = 1000

local function remember_popped(numbers)
  local runs, first, last = {}, nil, nil
  for index = 1, #numbers + 1 do
    local number = tonumber(numbers[index])
    if last and number ~= last + 1 then
      runs[#runs + 1] = string.format('%.0f:%.0f', first, last)
      first = nil
    end
    first, last = first or number, number
  end
  for _, run in ipairs(runs) do
    if redis.call('RPUSH', POPPED, run) > POPPED_RUNS then
      redis.call('LTRIM', POPPED, -POPPED_RUNS / 2, -1)
    end
  end
  redis.call('EXPIRE', POPPED, POPPED_SECONDS)
end

-- Takes one number out of the runs; returns 1 if it was in one. O(runs), which are bounded.
local function forget_popped(text)
  local number = tonumber(text)
  for _, run in ipairs(redis.call('LRANGE', POPPED, 0, -1)) do
    local first, last = string.match(run, '^(%d+):(%d+)$')
    first, last = tonumber(first), tonumber(last)
    if first <= number and number <= last then
      redis.call('LREM', POPPED, 1, run)
      if first < number then
        redis.call('RPUSH', POPPED, string.format('%.0f:%.0f', first, number - 1))
      end
      if number < last then
        redis.call('RPUSH', POPPED, string.format('%.0f:%.0f', number + 1, last))
      end
      return 1
    end
  end
  return 0
end
