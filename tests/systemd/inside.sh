#!/usr/bin/env bash
# Runs as root inside the container that run.sh boots: installs mailslot as README says and checks
# what the units of packaging/ promise.
set -uo pipefail

source /test/checks.sh
echo "systemd $(systemctl --version | sed -n '1s/systemd \([^ ]*\).*/\1/p'), $(uname -r)"

install -m 755 /test/mailslot /usr/local/bin/mailslot
install -D -m 600 /dev/stdin /etc/mailslot/webhook_secret <<< "$secret"
cp /test/*.service /test/*.socket /test/*.timer /etc/systemd/system/
check "systemd-analyze finds nothing wrong in the files" systemd-analyze verify /etc/systemd/system/mailslot*.*
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
check "the service goes on unchanged" restarts_are 2
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

# Nightly backups, of which the newest are kept.
mkdir -p /etc/systemd/system/mailslot-backup.service.d
printf '[Service]\nEnvironment=KEEP=2\n' > /etc/systemd/system/mailslot-backup.service.d/keep.conf
systemctl daemon-reload
backups() { ls /var/backups/mailslot | tr '\n' ' '; }
check "the timer of the backups is switched on" systemctl enable --now mailslot-backup.timer
check "it has a next time" sh -c 'systemctl list-timers mailslot-backup.timer | grep -q "1 timers listed"'
check "a backup beside the service loses no delivery" while_delivering systemctl start mailslot-backup
first=$(backups)
check "only root may read it" test "600 root 700 root" = "$(stat -c '%a %U' /var/backups/mailslot/*.db) $(
    stat -c '%a %U' /var/backups/mailslot)"
# Under an address at which nothing runs, since the service has another database.
check "it is a whole database" env DATABASE_URL="/var/backups/mailslot/${first% }" LISTEN=127.0.0.1:1 mailslot check --full
touch "/var/backups/mailslot/killed.db.part"
sleep 1 && check "a second backup" systemctl start mailslot-backup
systemctl stop mailslot
sleep 1 && check "a third backup, while the service is stopped" systemctl start mailslot-backup
check "the service starts again, and owns every file" systemctl start mailslot
check "the new backups are kept, and nothing else" test 2 = "$(backups | wc -w)"
check "the first backup is gone" sh -c "! ls /var/backups/mailslot/$first"
chmod 000 /usr/local/bin/mailslot
kept=$(backups)
check "a backup that cannot be made is an error" sh -c '! systemctl start mailslot-backup'
check "it removes no older one" test "$kept" = "$(backups)"
chmod 755 /usr/local/bin/mailslot
check "it stores new messages after that" mailslot send
systemctl disable --now mailslot-backup.timer

# Signals to the server alone, where no systemd runs it.
sleep 60 | mailslot import - > /dev/null 2>&1 &
pkill -USR2 -x -f '([^ ]*/)?mailslot( serve)?'
check "pkill reaches the server" within 10 restarts_are 1
check "pkill does not reach an import" pgrep -f 'mailslot import'
pkill -x sleep

# The log. By default journald keeps at most 60,000 lines of a service in 30 seconds.
cursor=$(journalctl -q -n 0 --show-cursor | sed 's/-- cursor: //')
check "70,000 deliveries at full speed" mailslot send --count 70000 --connections 16
journalctl --sync
journalctl -u mailslot -o cat --after-cursor="$cursor" > /tmp/log
dropped=$(sed -n 's/.*log lines dropped.*"dropped":\([0-9]*\).*/\1/p' /tmp/log | awk '{sum += $1} END {print sum + 0}')
check "journald keeps every line" test 70000 = $(($(grep -c '"result":"created"' /tmp/log) + dropped))

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
end
