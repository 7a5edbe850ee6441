-- Prints what wrk measured as one line of JSON, marked so that it is found among wrk's own words.

function done(summary, latency, requests)
   local errors = summary.errors
   print(string.format(
      'RESULT {"requests": %d, "microseconds": %d, "latency_p50_us": %d, "latency_p99_us": %d, '
         .. '"status_errors": %d, "socket_errors": %d}',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
