# What the scripts share that run.sh runs in its container: bash functions, to be sourced.

secret=0123456789abcdef0123456789abcdef
address=http://127.0.0.1:8000
failed=0
export WEBHOOK_SECRET=$secret

passed() { echo "ok    $*"; }
failed() { echo "FAIL  $*"; failed=$((failed + 1)); }
check() { # what, command...
    local what=$1
    shift
    if "$@" > /tmp/check.out 2>&1; then passed "$what"; else
        failed "$what"
        sed 's/^/      /' /tmp/check.out
    fi
}
within() { # seconds, command...: tries until it succeeds
    local end=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.1
    done
}
property() { systemctl show --property="$1" --value mailslot; }
metric() { curl -sf $address/metrics | sed -n "s/^$1 //p"; }
stored() { curl -sf $address/stats | sed 's/.*"total_messages":\([0-9]*\).*/\1/'; }
restarts_are() { [ "$(metric mailslot_restarts_total)" = "$1" ]; }
logged() { journalctl -u mailslot -o cat | grep -q "$1"; }
is_another_process() { [ "$(property MainPID)" != "$1" ] && [ "$(property ActiveState)" = active ]; }
# Delivers 4,000 messages in 4 seconds over 8 connections and runs the given command meanwhile. Each
# message must be acknowledged the first time it is sent.
while_delivering() {
    mailslot send --count 4000 --connections 8 --rate 1000 --json > /tmp/report 2>&1 &
    local sender=$! status=0
    sleep 1
    "$@" || status=$?
    wait $sender || status=$?
    cat /tmp/report
    for expected in '"acknowledged":4000' '"refused":{}' '"retries":0' '"unanswered":0'; do
        grep -qF "$expected" /tmp/report || return 1
    done
    return $status
}
end() { # The last line is what run.sh looks for.
    [ $failed = 0 ] && echo "all checks passed" || { echo "$failed checks failed"; exit 1; }
}
