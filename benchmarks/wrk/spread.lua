-- Sends the same body to many paths, in an order that jumps about. A number of six digits stands in
-- the path where the one of the URL has NUMBER, else at its end.
-- Arguments: COUNT METHOD BODY "Name: value"...

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "report.lua")

local STRIDE = 7919 -- a prime, so that every number below COUNT comes up
local count, at, prefix, suffix

function init(args)
   count, at = tonumber(args[1]), 0
   prefix, suffix = wrk.path:match("^(.-)NUMBER(.*)$")
   if not prefix then prefix, suffix = wrk.path, "" end
   wrk.method, wrk.body = args[2], args[3]
   for i = 4, #args do
      local name, value = args[i]:match("^([^:]+):%s*(.*)$")
      wrk.headers[name] = value
   end
end

function request()
   at = (at + STRIDE) % count
   return wrk.format(nil, prefix .. string.format("%06d", at) .. suffix)
end
