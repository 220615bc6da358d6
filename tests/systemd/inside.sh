#!/usr/bin/env bash
# Runs as root inside the container that run.sh boots: installs mailslot as README says and checks
# what mailslot.service and mailslot.socket promise.
set -uo pipefail

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

echo "systemd $(systemctl --version | sed -n '1s/systemd \([^ ]*\).*/\1/p'), $(uname -r)"

install -m 755 /test/mailslot /usr/local/bin/mailslot
install -D -m 600 /dev/stdin /etc/mailslot/webhook_secret <<< "$secret"
cp /test/mailslot.service /test/mailslot.socket /etc/systemd/system/
check "systemd-analyze finds nothing wrong in the files" \
    systemd-analyze verify /etc/systemd/system/mailslot.service /etc/systemd/system/mailslot.socket
systemctl daemon-reload

# The start.
check "the service starts and reports that it is ready" \
    systemctl enable --now mailslot.socket mailslot
check "it is active" systemctl is-active mailslot
check "it is ready to store a message" mailslot healthcheck
check "systemd holds the socket" grep -q '"systemd",' <(ss -Hltnp 'sport = :8000')
check "it stores a signed message" mailslot send
check "that message is counted" test "$(stored)" = 1
check "a message with a wrong signature gets 401" test 401 = "$(curl -s -o /dev/null \
    -w '%{http_code}' -d '{}' -H 'X-Signature: 00' $address/webhook)"
pid=$(property MainPID)
uid=$(property UID)
check "it runs as a user of its own" test "$uid" -gt 60000
check "its folder is its own alone" test "700 $uid" = "$(stat -L -c '%a %u' /var/lib/mailslot)"
if grep -q LimitCORE= /etc/systemd/system/mailslot.service; then
    check "it writes no core dump" test 0 = "$(property LimitCORE)"
fi

# An upgrade in place, as docs/OPERATIONS.md does it.
upgrade() {
    cp /test/mailslot /usr/local/bin/mailslot.new && mv /usr/local/bin/mailslot.new /usr/local/bin/mailslot
    systemctl kill --kill-whom=main -s USR2 mailslot
}
check "an upgrade by mv and SIGUSR2 loses no delivery" while_delivering upgrade
check "the new program answers" within 10 restarts_are 1
check "the process id is the same" test "$pid" = "$(property MainPID)"
check "systemd did not restart it" test "$(property NRestarts)" = 0
upgrade
check "a second upgrade works too" within 10 restarts_are 2

# An upgrade to a program that cannot run here, because it is not static.
cp /bin/true /usr/local/bin/mailslot.new && mv /usr/local/bin/mailslot.new /usr/local/bin/mailslot
systemctl kill --kill-whom=main -s USR2 mailslot
check "the log says that such an upgrade is not possible" within 10 logged "cannot restart"
check "the service goes on as it is" restarts_are 2
cp /test/mailslot /usr/local/bin/mailslot.new && mv /usr/local/bin/mailslot.new /usr/local/bin/mailslot

# A reload.
echo LOG_LEVEL=WARNING > /etc/mailslot/mailslot.env
check "systemctl reload loses no delivery" while_delivering systemctl reload mailslot
check "the log says that the settings were reloaded" within 10 logged "settings reloaded"
check "the process id is the same after it" test "$pid" = "$(property MainPID)"
rm /etc/mailslot/mailslot.env

# A restart.
check "a restart with mailslot.socket loses no delivery" while_delivering systemctl restart mailslot
check "it is another process then" test "$pid" != "$(property MainPID)"
check "all messages are there" test "$(stored)" = 12001

# A new secret, as docs/OPERATIONS.md rotates it.
new_secret=fedcba9876543210fedcba9876543210
cd /etc/mailslot && umask 077
{ echo $new_secret; cat webhook_secret; } > webhook_secret.new && mv webhook_secret.new webhook_secret
check "a restart with a second secret loses no delivery" while_delivering systemctl restart mailslot
check "the new secret is valid" env WEBHOOK_SECRET=$new_secret mailslot send
sed -i 2d webhook_secret && systemctl restart mailslot
check "the old secret is no longer valid" sh -c '! mailslot send'
check "the new one still is" env WEBHOOK_SECRET=$new_secret mailslot send
export WEBHOOK_SECRET=$new_secret
cd /

# A backup and a restore, as docs/OPERATIONS.md does it.
export DATABASE_URL=sqlite:////var/lib/mailslot/mailslot.db
before=$(stored)
check "a backup" mailslot backup /var/backups/mailslot.db
check "a message after the backup" mailslot send
systemctl stop mailslot.socket mailslot
cd /var/lib/mailslot && mkdir -p aside && mv mailslot.db* aside/
install -m 600 /var/backups/mailslot.db mailslot.db && chown --reference=. mailslot.db
check "the service starts with the backup" systemctl start mailslot.socket mailslot
check "mailslot check --full finds nothing wrong with it" mailslot check --full
check "it has what was backed up" test "$(stored)" = "$before"
DATABASE_URL=/var/lib/mailslot/aside/mailslot.db mailslot export | mailslot import - > /dev/null 2>&1
check "the rest comes back from the old database" test "$(stored)" = $((before + 1))
check "it stores new messages" mailslot send
cd /

# Signals to the server alone, where no systemd runs it.
sleep 60 | mailslot import - > /dev/null 2>&1 &
pkill -USR2 -x -f '([^ ]*/)?mailslot( serve)?'
check "pkill reaches the server" within 10 restarts_are 1
check "pkill does not reach an import" pgrep -f 'mailslot import'
pkill -x sleep

# The address filter. 192.0.2.1 is this container's, and is not localhost.
ip address add 192.0.2.1/32 dev lo
mkdir -p /etc/systemd/system/mailslot.socket.d
printf '[Socket]\nListenStream=\nListenStream=0.0.0.0:8000\n' > /etc/systemd/system/mailslot.socket.d/all.conf
systemctl daemon-reload
systemctl stop mailslot.socket mailslot && systemctl start mailslot.socket mailslot
check "it answers on 127.0.0.1 where it listens on every address" curl -sf -m 5 $address/health/live
check "an address other than localhost cannot connect" \
    test 000 = "$(curl -s -m 3 -o /dev/null -w '%{http_code}' http://192.0.2.1:8000/health/live)"
rm -r /etc/systemd/system/mailslot.socket.d
systemctl daemon-reload
systemctl stop mailslot.socket mailslot && systemctl start mailslot.socket mailslot

# The watchdog: a stopped process feeds nothing.
pid=$(property MainPID)
kill -STOP "$pid"
check "the watchdog replaces a process that does not answer" within 90 is_another_process "$pid"
check "its log says so" within 5 sh -c 'journalctl -u mailslot -o cat | grep -q "Watchdog timeout"'
check "it is ready again" within 10 mailslot healthcheck

# The command line as the service's user, as docs/OPERATIONS.md shows it.
check "mailslot check as the service's user, with its secret and its database" \
    systemd-run --quiet --pipe --wait -p DynamicUser=yes -p User=mailslot -p StateDirectory=mailslot \
    -p LoadCredential=webhook_secret:/etc/mailslot/webhook_secret \
    -E DATABASE_URL=sqlite:////var/lib/mailslot/mailslot.db /usr/local/bin/mailslot check
sed 's/^/      /' /tmp/check.out
check "the service still runs after that" mailslot healthcheck

# A program that needs a loader cannot run under NoExecPaths=/.
cp /bin/true /usr/local/bin/mailslot.new && mv /usr/local/bin/mailslot.new /usr/local/bin/mailslot
systemctl restart mailslot 2> /dev/null
check "a program that is not static fails with 203/EXEC" test 203 = "$(property ExecMainStatus)"
systemctl stop mailslot.socket mailslot

systemd-analyze security --no-pager mailslot | tail -n 1
[ $failed = 0 ] && echo "all checks passed" || { echo "$failed checks failed"; exit 1; }
