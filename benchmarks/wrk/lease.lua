-- Leases a message, acknowledges it, leases the next: whichever connection is free does what is
-- due. Arguments: PATH-OF-THE-LEASE. wrk gives one thread one script, so this needs -t1.

local lease, receipts = nil, {}

-- Global, since done() reads them from outside.
pairs_done, failures = 0, 0

function init(args)
   lease = wrk.format("GET", args[1])
end

function request()
   local receipt = table.remove(receipts)
   if receipt then
      return wrk.format("DELETE", "/lease/" .. receipt)
   end
   return lease
end

function response(status, headers, body)
   local receipt = body:match('"receipt":"([^"]+)"')
   if receipt then
      receipts[#receipts + 1] = receipt
   elseif body:find('"acked":true', 1, true) then
      pairs_done = pairs_done + 1
   else
      failures = failures + 1
   end
end

function setup(thread)
   measured = thread
end

function done(summary, latency, requests)
   local errors = summary.errors
   print(string.format(
      'RESULT {"requests": %d, "microseconds": %d, "latency_p50_us": %d, "latency_p99_us": %d, '
         .. '"status_errors": %d, "socket_errors": %d}',
      measured:get("pairs_done"), summary.duration, latency:percentile(50),
      latency:percentile(99), errors.status + measured:get("failures"),
      errors.connect + errors.read + errors.write + errors.timeout))
end
