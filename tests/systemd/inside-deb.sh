#!/usr/bin/env bash
# Runs as root inside the container that run.sh boots: what the Debian package does when it is
# installed, upgraded, removed and purged. Its files are two packages of one program.
set -uo pipefail

source /test/checks.sh
new=$(ls /test/mailslot_*-2_*.deb)
old=$(ls /test/mailslot_*.deb | grep -vxF "$new")
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y "$1"; }
installed() { dpkg-query -W -f '${Status} ${Version}' mailslot; }
use_secret() { export WEBHOOK_SECRET=$(cat /etc/mailslot/webhook_secret); }

# A new machine.
check "apt installs the package" install "$old"
said=$(cat /tmp/check.out)
check "it tells where the new secret is" grep -q 'a new secret is in /etc/mailslot/webhook_secret' <<< "$said"
check "only root can read the secret" test "600 root 64" = "$(stat -c '%a %U %s' /etc/mailslot/webhook_secret)"
check "the service runs" systemctl is-active mailslot mailslot.socket
check "it starts with the machine" systemctl is-enabled mailslot mailslot.socket
check "the timer of the backups waits for the operator" sh -c '! systemctl is-active mailslot-backup.timer'
check "mailslot is on the PATH" mailslot healthcheck
use_secret
check "it stores a message signed with the new secret" mailslot send
check "that message is counted" test 1 = "$(stored)"
check "the units have no error" systemd-analyze verify /lib/systemd/system/mailslot*.*
for file in man/man1/mailslot.1.gz bash-completion/completions/mailslot zsh/vendor-completions/_mailslot \
    fish/vendor_completions.d/mailslot.fish doc/mailslot/examples/nginx.conf.example doc/mailslot/README.md; do
    check "there is $file" test -s /usr/share/$file
done

# What the operator changes stays.
echo LOG_LEVEL=WARNING >> /etc/mailslot/mailslot.env
systemctl restart mailslot

# An upgrade.
pid=$(property MainPID)
check "an upgrade loses no delivery" while_delivering install "$new"
check "the new version is installed" test "install ok installed $(dpkg-deb -f "$new" Version)" = "$(installed)"
check "the new program runs" is_another_process "$pid"
check "systemd did not open the socket again" test 0 = "$(journalctl -u mailslot.socket -o cat |
    grep -c 'Closed mailslot')"
check "the settings stay" grep -q '^LOG_LEVEL=WARNING' /etc/mailslot/mailslot.env
check "the secret stays" test "$WEBHOOK_SECRET" = "$(cat /etc/mailslot/webhook_secret)"
check "all messages are there" test 4001 = "$(stored)"

# A service that the operator has stopped and switched off stays so.
systemctl disable --now mailslot.socket mailslot 2> /dev/null
check "a stopped service can be upgraded" dpkg -i "$new"
check "the upgrade leaves it stopped" sh -c '! systemctl is-active mailslot'
check "and switched off" sh -c '! systemctl is-enabled mailslot'
systemctl enable --now mailslot.socket mailslot 2> /dev/null

# A backup with the package's paths.
check "a backup by the package's unit" systemctl start mailslot-backup
check "it is there" test 1 = "$(ls /var/backups/mailslot/*.db | wc -l)"

# A removal keeps what the operator and the provider have put there.
check "apt removes the package" apt-get remove -y mailslot
check "nothing runs" sh -c '! systemctl is-active mailslot && ! systemctl is-active mailslot.socket'
check "nothing listens" test -z "$(ss -Hltn 'sport = :8000')"
check "the messages stay" test -s /var/lib/private/mailslot/mailslot.db
check "the secret stays, too" test -s /etc/mailslot/webhook_secret
check "it can be installed again" install "$old"
check "with the messages from before" within 10 test 4001 = "$(stored)"
check "and takes new ones" mailslot send

# A purge.
check "apt purges the package" apt-get purge -y mailslot
for path in /etc/mailslot /var/lib/mailslot /var/lib/private/mailslot /usr/lib/mailslot /usr/bin/mailslot; do
    check "$path is gone" test ! -e $path -a ! -L $path
done
check "the backups stay" test 1 = "$(ls /var/backups/mailslot/*.db | wc -l)"
check "systemd has forgotten the units" sh -c '! systemctl cat mailslot'
check "no unit has failed" test -z "$(systemctl list-units --failed --no-legend 'mailslot*')"
end
