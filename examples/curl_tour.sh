#!/usr/bin/env bash
# A tour of every route of RestMQ, with nothing but curl.
#
#     ./curl_tour.sh [URL] [QUEUE]      default: http://127.0.0.1:8888 tour
#
# Each step prints what it does, the command and the answer, and compares the answer with what
# the server promises; the first surprise ends the tour with exit status 1, so that it serves as
# a smoke test too. It empties QUEUE, and leaves the queues collectd_data and collectd_event as
# they were.

set -u

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
fi

server=${1:-http://127.0.0.1:8888}
server=${server%/}
queue=${2:-tour}
deadline_seconds=10

work=$(mktemp -d)
stream_process=
cleanup() {
    if [ -n "$stream_process" ]; then
        kill "$stream_process" 2>/dev/null
        wait "$stream_process" 2>/dev/null
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

status='' head='' body='' steps=0
unique=tour-$$-$RANDOM-$(date +%s)

fail() {
    printf '\nUNEXPECTED: %s\n' "$1" >&2
    exit 1
}

# show END CURL-ARGUMENTS...: print a command so that it can be pasted into a shell.
show() {
    local end=$1
    shift
    printf '$ curl'
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=@%+,-]*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '%s\n' "$end"
}

# Ask once, without printing: sets status, head (the header lines) and body (its first 64 KiB).
ask() {
    curl --silent --show-error --max-time "$deadline_seconds" --output "$work/body" \
        --dump-header "$work/head" --write-out '%{http_code}' "$@" >"$work/status" ||
        fail "curl could not reach $server"
    status=$(cat "$work/status")
    head=$(tr -d '\r' <"$work/head")
    body=$(head -c 65536 "$work/body" 2>/dev/null | tr -d '\r\0')
    : >"$work/body"
}

# step WHAT STATUS PATTERN CURL-ARGUMENTS...: one step of the tour. PATTERN is an extended regular
# expression that the body, without spaces, must match (^ matches any); an empty one asks for an
# empty body.
step() {
    local what=$1 expected=$2 pattern=$3
    shift 3
    steps=$((steps + 1))
    printf '\n# %s\n' "$what"
    show '' "$@"
    ask "$@"
    local location
    location=$(printf '%s\n' "$head" | sed -n 's/^[Ll]ocation: /-> /p')
    printf '%s %s\n' "$status" "$location"
    if [ -n "$body" ]; then
        printf '%s\n' "$body" | cut -c1-300 | head -n 6
    fi
    [ "$status" = "$expected" ] || fail "status $status instead of $expected"
    local compact
    compact=$(printf '%s' "$body" | tr -d ' \n')
    if [ -z "$pattern" ]; then
        [ -z "$compact" ] || fail "a body where none was expected"
    else
        [[ $compact =~ $pattern ]] || fail "the body does not match $pattern"
    fi
}

# wait_for WHAT COMMAND...: try a command until it succeeds, for a limited time.
wait_for() {
    local what=$1 tries=$((deadline_seconds * 10))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || fail "$what, after $deadline_seconds s"
        sleep 0.1
    done
}

# Open a stream in the background; its output goes to the file named "stream".
open_stream() {
    steps=$((steps + 1))
    printf '\n# %s\n' "$1"
    shift
    show ' &' -N "$@"
    : >"$work/stream"
    curl -N --silent --max-time "$deadline_seconds" "$@" >"$work/stream" 2>/dev/null &
    stream_process=$!
}

stream_has() { tr -d ' \r' <"$work/stream" | grep -Eq "$1"; }

show_stream() { tr -d '\r' <"$work/stream" | sed 's/^/  stream: /' | cut -c1-300; }

end_of_stream() {
    wait "$stream_process"
    local result=$?
    stream_process=
    [ "$result" -eq 0 ] || fail "the stream was cut off (curl says $result) instead of ended"
    printf '  stream: (end)\n'
}

queue_holds() {
    ask "$server/stats/$queue"
    [[ ${body// /} =~ \"len\":$1[,}] ]]
}

# field NAME: the first string of that name in the last answer, which is JSON.
field() { printf '%s' "$body" | sed 's/.*"'"$1"'": *"\([^"]*\)".*/\1/'; }

printf 'RestMQ at %s, with the queue %s\n' "$server" "$queue"

printf '\n=== Is it there? ===\n'
step 'The process lives' 200 '.' "$server/healthz"
step 'It can serve' 200 '.' "$server/readyz"
step 'The root leads to the dashboard' 302 '^' "$server/"
step 'The dashboard' 200 '<html' "$server/static/index.html"
step '/queue leads to the help page' 302 '^' "$server/queue"
step 'The help page' 200 '<html' "$server/static/help.html"

printf '\n=== Add and take: /q/QUEUE ===\n'
step 'Empty the queue first' 200 "\"queue\":\"$queue\"" -X DELETE "$server/q/$queue"
step 'Add a message; the answer is its key' 200 "^$queue:[0-9]+\$" \
    -d value=foobar "$server/q/$queue"
step 'msg means the same as value' 200 "^$queue:[0-9]+\$" -d msg=second "$server/q/$queue"
step 'The oldest message comes first' 200 '"value":"foobar"' "$server/q/$queue"
step 'callback= wraps the answer, for JSONP' 200 '^show\(\{.*"value":"second".*\}\);?$' \
    "$server/q/$queue?callback=show"
step 'An empty queue answers 204' 204 '' "$server/q/$queue"
step 'Every queue, as links' 200 "/q/$queue" "$server/q/"
step 'A message without a value is refused' 400 '.' -d other=1 "$server/q/$queue"

printf '\n=== The same at the root: / ===\n'
step 'Add' 200 "^$queue:[0-9]+\$" -d "queue=$queue&value=hello" "$server/"
step 'Take' 200 '"value":"hello".*"count":0|"count":0.*"value":"hello"' "$server/?queue=$queue"
step 'Here an empty queue answers 404' 404 '.' "$server/?queue=$queue"

printf '\n=== Time to live ===\n'
step 'A message that lives for one second' 200 "^$queue:" -d 'value=brief&ttl=1' "$server/q/$queue"
wait_for 'the message has not expired' queue_holds 0
step 'It is gone' 204 '' "$server/q/$queue"
step 'A ttl that is no number is refused' 400 '.' -d 'value=v&ttl=soon' "$server/q/$queue"

printf '\n=== Work that must not get lost: lease, ack, release ===\n'
step 'Add' 200 "^$queue:" -d value=work "$server/q/$queue"
step 'Lease it for 30 seconds: nobody else gets it' 200 '"value":"work".*"attempt":1' \
    "$server/q/$queue?lease=30"
receipt=$(field receipt)
step 'Nothing is ready now' 204 '' "$server/q/$queue"
step 'Keep it for a minute, counted from now' 200 '"expires":' -d extend=60 "$server/lease/$receipt"
step 'Give it back: it is at the head of the queue again' 200 '"released":true' \
    -d release=0 "$server/lease/$receipt"
step 'That receipt is stale for ever' 409 '"error":"stale-receipt"' -X DELETE "$server/lease/$receipt"
step 'What never was a receipt' 400 '"error":' -X DELETE "$server/lease/nonsense"
step 'The second attempt; up to 10 messages, waiting up to 5 s' 200 '^\[\{.*"attempt":2' \
    "$server/q/$queue?lease=30&count=10&wait=5"
receipt=$(field receipt)
key=$(field key)
step 'The story of a message, wherever it is' 200 '"state":"leased"' "$server/m/$key"
step 'Say that it is done: it is gone for good' 200 '"acked":true' -X DELETE "$server/lease/$receipt"
step 'And has no story any more' 404 '.' "$server/m/$key"

printf '\n=== Dead letters: /dead/QUEUE ===\n'
step 'Throw away those of earlier tours' 200 '"dropped":' -X DELETE "$server/dead/$queue"
step 'Add' 200 "^$queue:" -d value=poison "$server/q/$queue"
step 'Lease it' 200 '"attempt":1' "$server/q/$queue?lease=30"
step 'Give it up, with a reason' 200 '"key":' -d 'dead=no such address' \
    "$server/lease/$(field receipt)"
step 'There it is' 200 '"reason":"nosuchaddress"' "$server/dead/$queue"
step 'Statistics count it' 200 '"dead":1[,}]' "$server/stats/$queue"
step 'Put all back' 200 '"redriven":1' -X POST "$server/dead/$queue"
step 'It is a message again, and its attempts begin from 1' 200 '"value":"poison".*"attempt":1' \
    "$server/q/$queue?lease=30"
step 'Done' 200 '"acked":true' -X DELETE "$server/lease/$(field receipt)"

printf '\n=== Later, sooner, once, many ===\n'
step 'Nobody gets it for an hour' 200 "^$queue:" -d 'value=later&delay=3600' "$server/q/$queue"
key=$body
step 'So it is not there yet' 204 '' "$server/q/$queue"
step 'It waits' 200 '"delayed":1[,}]' "$server/stats/$queue"
step 'It shall be ready now' 200 "$key" -d delay=0 "$server/m/$key"
wait_for 'it does not become ready' queue_holds 1
step 'A priority from 0 to 9; without one it is 4' 200 "^$queue:" \
    -d 'value=urgent&priority=9' "$server/q/$queue"
step 'Look at what comes next, without taking it' 200 '"urgent".*"later"' "$server/q/$queue?peek=2"
step 'An id makes it safe to publish again' 200 "^$queue:" \
    -H "Idempotency-Key: $unique" -d value=once "$server/q/$queue"
key=$body
step 'The first key, and nothing is stored' 200 "^$key\$" \
    -H "Idempotency-Key: $unique" -d value=once "$server/q/$queue"
step 'A message per line, all of them or none' 200 '"count":2' \
    -H 'Content-Type: application/x-ndjson' --data-binary $'{"a":1}\n{"a":2}\n' "$server/q/$queue"
step 'Any bytes, with a content type' 200 '"key":' \
    -H 'Content-Type: image/gif' -H 'Accept: application/json' --data-binary GIF89a "$server/q/$queue"
step 'Take many at once, as a list' 200 '^\[.*"urgent".*"later".*"once".*"GIF89a".*\]$' \
    "$server/q/$queue?count=1000"
step 'A message to delete' 200 "^$queue:" -d value=mistake "$server/q/$queue"
step 'Gone, wherever it was' 200 '"deleted":true' -X DELETE "$server/m/$body"

printf '\n=== Settings: /settings/QUEUE ===\n'
step 'What holds for this queue' 200 '"max_attempts":' "$server/settings/$queue"
step 'Change some of it' 200 '"max_attempts":1[,}]' -X PATCH -d '{"max_attempts":1}' \
    "$server/settings/$queue"
step 'What is wrong changes nothing' 400 'no_such_setting' -X PATCH \
    -d '{"max_attempts":2,"no_such_setting":1}' "$server/settings/$queue"
step 'Back to the defaults' 200 '"max_attempts":5[,}]' -X DELETE "$server/settings/$queue"

printf '\n=== The JSON protocol: /queue ===\n'
step 'Add' 200 '"value":"abacab"' \
    -d "body={\"cmd\":\"add\",\"queue\":\"$queue\",\"value\":\"abacab\"}" "$server/queue"
key=$(field key)
step 'Look without taking; the count says how often' 200 '"count":1' \
    -d "body={\"cmd\":\"get\",\"queue\":\"$queue\"}" "$server/queue"
step 'Take' 200 '"value":"abacab"' \
    -d "body={\"cmd\":\"take\",\"queue\":\"$queue\"}" "$server/queue"
step 'Nothing is left: an error, with status 200' 200 '"error":"emptyqueue"' \
    -d "body={\"cmd\":\"take\",\"queue\":\"$queue\"}" "$server/queue"
step 'The queue may stand in the path, the body may be JSON' 200 '"value":"raw"' \
    -H 'Content-Type: application/json' -d '{"cmd":"add","value":"raw"}' "$server/queue/$queue"
key=$(field key)
step 'Delete a message by its key' 200 '"deleted":true' \
    -d "body={\"cmd\":\"del\",\"queue\":\"$queue\",\"key\":\"$key\"}" "$server/queue"
step 'It can be deleted only once' 200 '"deleted":false' \
    -d "body={\"cmd\":\"del\",\"queue\":\"$queue\",\"key\":\"$key\"}" "$server/queue"
step 'An unknown command' 200 '"error":"nullresultset"' -d 'body={"cmd":"zap"}' "$server/queue"
step 'Broken JSON' 400 '.' -d 'body={oops' "$server/queue"

printf '\n=== Policy: /p/QUEUE ===\n'
step 'Each message to one consumer, in turn' 200 '^OK$' -d policy=roundrobin "$server/p/$queue"
step 'Ask for it' 200 '"value":"roundrobin"' "$server/p/$queue"
step 'Each message to every consumer' 200 '^OK$' -d policy=broadcast "$server/p/$queue"
step 'There is no third policy' 400 '.' -d policy=random "$server/p/$queue"

printf '\n=== Streams and flow control: /c/QUEUE, /control/QUEUE, /ws/QUEUE ===\n'
step 'Stop delivery to streams' 200 '"status":0' -d status=stop "$server/control/$queue"
open_stream 'A stream that never ends' -D - "$server/c/$queue"
wait_for 'the stream does not start' stream_has '^HTTP/1.1200'
step 'Add while the queue is stopped: the message waits' 200 "^$queue:" \
    -d value=patience "$server/q/$queue"
step 'One message is queued' 200 '"len":1[,}]' "$server/stats/$queue"
stream_has patience && fail 'a stopped queue delivered a message'
step 'Start delivery' 200 '"status":1' -d status=start "$server/control/$queue"
wait_for 'the message does not arrive' stream_has '"value":"patience"'
show_stream
step 'DELETE empties a queue and ends its streams' 200 '"status":0' -X DELETE "$server/q/$queue"
end_of_stream
step 'The status of one queue' 200 '"status":1' "$server/control/$queue"
step 'The status of all queues' 200 '"queues":\{.*"count":' "$server/control/"
step 'An unknown status' 200 '"stat":"invalidstatus' -d status=bogus "$server/control/$queue"

open_stream 'The same stream as server-sent events, for browsers; it says where it begins' \
    -H 'Accept: text/event-stream' -D - "$server/c/$queue"
wait_for 'no event stream' stream_has '^[Cc]ontent-[Tt]ype:text/event-stream'
wait_for 'no opening event' stream_has '^event:open'
step 'Add' 200 "^$queue:" -d value=event "$server/q/$queue"
wait_for 'no event' stream_has '^data:.*"value":"event"'
show_stream
step 'End it' 200 '"status"' -X DELETE "$server/q/$queue"
end_of_stream

step 'Add' 200 "^$queue:" -d value=missed "$server/q/$queue"
number=${body##*:}
step 'Somebody gets it, here with a long-poll' 200 '"value":"missed"' "$server/c/$queue?wait=5"
step 'A stream that broke before resumes after the number that it got last' 200 \
    '"value":"missed"' "$server/c/$queue?wait=5&after=$((number - 1))"
step 'Add' 200 "^$queue:" -d value=leased "$server/q/$queue"
open_stream 'A leased stream: one message at a time, until each is settled' \
    "$server/c/$queue?ack=1&prefetch=1&lease=30"
wait_for 'nothing is leased' stream_has '"value":"leased".*"receipt":'
show_stream
receipt=$(sed -n 's/.*"receipt": *"\([^"]*\)".*/\1/p' "$work/stream" | head -n 1)
step 'Done' 200 '"acked":true' -X DELETE "$server/lease/$receipt"
step 'End it' 200 '"status"' -X DELETE "$server/q/$queue"
end_of_stream

# The key and the answer to it are those of RFC 6455, section 1.3. curl does not speak WebSocket
# frames here, so the tour only opens the connection.
open_stream 'A WebSocket: the opening handshake' -D - --http1.1 \
    -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' \
    -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' "$server/ws/$queue"
wait_for 'no handshake' stream_has '^[Ss]ec-[Ww]eb[Ss]ocket-[Aa]ccept:s3pPLMBiTxaQ9kYGzzhZRbK\+xOo='
show_stream
kill "$stream_process" 2>/dev/null
wait "$stream_process" 2>/dev/null
stream_process=

printf '\n=== Statistics and the job page ===\n'
step 'One queue' 200 "\"queue\":\"$queue\"" "$server/stats/$queue"
step 'All queues' 200 '"queues":\{.*"count":' "$server/stats/?limit=3"
step 'As JSONP' 200 '^show\(\{.*\}\);?$' "$server/stats/$queue?callback=show"
step 'The newest jobs of a queue, for people' 200 "$queue" "$server/j/$queue"

printf '\n=== collectd ===\n'
step 'Values in the plain-text protocol' 200 '^collectd_data:[0-9]+$' \
    -H 'Content-Type: text/plain' \
    -d 'PUTVAL web1/load/load interval=10 1288548767:1:2' "$server/collectd/data"
step 'Take it out again by its key' 200 '"deleted":true' \
    -d "body={\"cmd\":\"del\",\"queue\":\"collectd_data\",\"key\":\"$body\"}" "$server/queue"
step 'Values in JSON' 200 '^collectd_data:[0-9]+$' \
    -H 'Content-Type: application/json' -d '[{"host":"web1","values":[1]}]' "$server/collectd/data"
step 'Take it out again' 200 '"deleted":true' \
    -d "body={\"cmd\":\"del\",\"queue\":\"collectd_data\",\"key\":\"$body\"}" "$server/queue"
step 'An event' 200 '^collectd_event:[0-9]+$' -H 'Content-Type: text/plain' \
    --data-binary $'Severity: WARNING\nTime: 1288548767\nHost: web1\n\nload is high\n' \
    "$server/collectd/event"
step 'Take it out again' 200 '"deleted":true' \
    -d "body={\"cmd\":\"del\",\"queue\":\"collectd_event\",\"key\":\"$body\"}" "$server/queue"

printf '\nThe tour is complete: %d steps, no surprises.\n' "$steps"
