#!/usr/bin/env bash
# Boots a small Debian under its own systemd, in a container, and runs a script of this folder there
# with some files. `make test-systemd` and `make test-deb` call this, as root; it needs debootstrap
# and systemd-nspawn, and a Debian mirror for the first run.
#
# Usage: run.sh SCRIPT FILE...      the script finds the files in /test
# Exit status: 0 if every check passed; 1 if one did not; 2 if something is missing.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
script=${1:?Usage: run.sh SCRIPT FILE...}
shift
# The installed system is kept, because making it takes a minute. Each run boots a copy of it.
cache=$here/../../target/systemd
packages=systemd,systemd-sysv,dbus,curl,iproute2,procps

[ "$(id -u)" = 0 ] || { echo "run this as root: it boots a container" >&2; exit 2; }
for tool in debootstrap systemd-nspawn; do
    command -v $tool > /dev/null ||
        { echo "$tool is missing: apt-get install debootstrap systemd-container" >&2; exit 2; }
done

mkdir -p "$cache"
cache=$(realpath "$cache")
if [ ! -e "$cache/complete" ]; then
    rm -rf "$cache/root"
    echo "installing Debian 12 into $cache/root" >&2
    debootstrap --variant=minbase --include=$packages bookworm "$cache/root" > "$cache/install.log" ||
        { tail -n 20 "$cache/install.log" >&2; exit 2; }
    touch "$cache/complete"
fi

work=$(mktemp -d)
machine=mailslot-test-$$
end() {
    # systemd-nspawn passes SIGTERM on as a request to shut down; SIGKILL would leave the container.
    kill -TERM "$container" 2> /dev/null && wait "$container" || true
    rm -rf "$work"
}
mkdir "$work/test"
cp "$@" "$here/$script" "$here/checks.sh" "$work/test/"
cat > "$work/test.service" << UNIT
[Unit]
After=multi-user.target
SuccessAction=exit
FailureAction=exit

[Service]
Type=oneshot
ExecStart=/bin/bash /test/$script
StandardOutput=append:/test/output
StandardError=append:/test/output
TimeoutStartSec=10min
UNIT
touch "$work/test/output"

# With a network of its own, so that the host's port 8000 may be in use.
systemd-nspawn --quiet --ephemeral --directory="$cache/root" --machine="$machine" --boot \
    --private-network --system-call-filter=bpf --capability=CAP_BPF --register=no --keep-unit --console=pipe --link-journal=no \
    --bind="$work/test:/test" \
    --bind-ro="$work/test.service:/etc/systemd/system/test.service" \
    systemd.wants=test.service < /dev/null > "$work/console" 2>&1 &
container=$!
trap end EXIT

tail -n +1 -F --pid="$container" "$work/test/output" 2> /dev/null &
status=0
wait "$container" || status=$?
wait $! || true
grep -q '^all checks passed$' "$work/test/output" && exit 0
[ -s "$work/test/output" ] || { echo "the container did not boot:" >&2; tail -n 20 "$work/console" >&2; }
echo "systemd-nspawn ended with exit status $status" >&2
exit 1
