-- Sends the same body to many paths, in an order that jumps about. The path given in the URL is
-- followed by a number of six digits. Arguments: COUNT METHOD BODY "Name: value"...

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "report.lua")

local STRIDE = 7919 -- a prime, so that every number below COUNT comes up
local count, at, prefix

function init(args)
   count, at, prefix = tonumber(args[1]), 0, wrk.path
   wrk.method, wrk.body = args[2], args[3]
   for i = 4, #args do
      local name, value = args[i]:match("^([^:]+):%s*(.*)$")
      wrk.headers[name] = value
   end
end

function request()
   at = (at + STRIDE) % count
   return wrk.format(nil, prefix .. string.format("%06d", at))
end
