-- wrk script: POST the signed requests of the file named in REQUESTS (see messages.py) to the URL,
-- or GET the URL if REQUESTS is not set. Prints one line, RESULT and a JSON object, at the end.
--
-- Each wrk thread takes its own share of the file's lines, in order. A share that is used up starts
-- over: the JSON then says `repeats`, for those were duplicates and cost the server less.

local file = os.getenv("REQUESTS")
local header = os.getenv("SIGNATURE_HEADER") or "X-Signature"
local thread_count = tonumber(os.getenv("WRK_THREADS") or "1")
local threads = {}

-- wrk by itself opens and closes one connection before it starts. That leaves tiny_http with an
-- idle thread, and it is idle threads that make it strand some of the burst of connections that
-- comes next (see stranded.py). So take the first address on trust.
function wrk.resolve(host, service)
  wrk.addrs = { wrk.lookup(host, service)[1] }
end

function setup(thread)
  thread:set("share", #threads)
  table.insert(threads, thread)
end

-- stranded.py tells a request that waits from the one after it by its length, so lengths must vary.
local function padding(n)
  return string.rep("x", n % 32 + 1)
end

local function posts()
  local requests, n = {}, 0
  for line in io.lines(file) do
    if n % thread_count == share then
      local signature, body = line:match("^([^\t]+)\t(.*)$")
      local headers = { ["Content-Type"] = "application/json", [header] = signature,
        ["X-Padding"] = padding(n) }
      requests[#requests + 1] = wrk.format("POST", nil, headers, body)
    end
    n = n + 1
  end
  return requests
end

local function gets()
  local requests = {}
  for n = 1, 32 do
    requests[n] = wrk.format("GET", nil, { ["X-Padding"] = padding(n * 7) })
  end
  return requests
end

function init()
  requests = file and posts() or gets()
  at, laps = 0, 0
end

function request()
  at = at + 1
  if at > #requests then
    at, laps = 1, laps + 1
  end
  return requests[at]
end

function done(summary, latency)
  local repeats = 0
  for _, thread in ipairs(threads) do
    repeats = repeats + (file and thread:get("laps") or 0)
  end
  local errors, seconds = summary.errors, summary.duration / 1e6
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.3f, "rps": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, '
      .. '"p999_ms": %.3f, "max_ms": %.3f, "non_2xx": %d, "socket_errors": %d, "repeats": %d}\n',
    summary.requests, seconds, summary.requests / seconds, latency:percentile(50) / 1000,
    latency:percentile(99) / 1000, latency:percentile(99.9) / 1000, latency.max / 1000,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout, repeats))
end
