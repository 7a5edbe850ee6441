-- Sends one and the same request. Arguments: METHOD BODY "Name: value"...

dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "report.lua")

function init(args)
   wrk.method = args[1]
   if args[2] ~= "" then
      wrk.body = args[2]
   end
   for i = 3, #args do
      local name, value = args[i]:match("^([^:]+):%s*(.*)$")
      wrk.headers[name] = value
   end
end
