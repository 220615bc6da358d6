#!/bin/sh
# A private PostgreSQL for tests and measurements, run by a user who is not root.
#
#   server.sh run FOLDER PORT [-c NAME=VALUE]...  creates and starts one, prints "ready", and stops and
#                                                  removes it once its standard input ends
#   server.sh start FOLDER PORT [-c NAME=VALUE]... starts it again after a stop
#   server.sh stop FOLDER MODE                     stops it: fast, or immediate, as a power failure would
#
# FOLDER must not exist yet. The superuser is `postgres`, without a password on the socket in FOLDER, and with
# the password `secret` on 127.0.0.1:PORT, by SCRAM. The role `mailslot` has the same password and no rights.
# LOCALE and ENCODING change what the databases have, SSL_CERTIFICATE and SSL_KEY turn TLS on.
set -eu
self=$0 verb=$1 folder=$2
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)

# initdb and postgres refuse root.
as_nobody() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=nobody --regid="$(id -g nobody)" --clear-groups -- "$@"
    else
        "$@"
    fi
}

case $verb in
run)
    shift
    # A Ctrl-C reaches the tests and this script: the tests end, and then the server, in its turn.
    trap '' INT TERM
    mkdir -m 700 "$folder" "$folder/data"
    printf secret > "$folder/password"
    test "$(id -u)" != 0 || chown -R nobody "$folder"
    as_nobody "$bin/initdb" -D "$folder/data" -U postgres --pwfile="$folder/password" \
        --auth-local=trust --auth-host=scram-sha-256 --encoding="${ENCODING:-UTF8}" \
        --locale="${LOCALE:-C.UTF-8}" --no-sync --no-instructions > "$folder/initdb.log" 2>&1 \
        || { cat "$folder/initdb.log" >&2; exit 1; }
    if [ -n "${SSL_CERTIFICATE:-}" ]; then
        install -m 600 "$SSL_CERTIFICATE" "$folder/data/server.crt"
        install -m 600 "$SSL_KEY" "$folder/data/server.key"
        test "$(id -u)" != 0 || chown nobody "$folder/data/server.crt" "$folder/data/server.key"
        echo "ssl = on" >> "$folder/data/postgresql.conf"
    fi
    "$self" start "$@"
    psql -qX -h "$folder" -p "$2" -U postgres postgres -c "CREATE ROLE mailslot LOGIN PASSWORD 'secret'"
    echo ready
    cat > /dev/null
    "$self" stop "$folder" immediate || true
    rm -rf "$folder"
    ;;
start)
    port=$3
    shift 3
    # The descriptors are its own: whoever reads this script's output would wait for the server.
    as_nobody "$bin/pg_ctl" -D "$folder/data" -l "$folder/log" -w -s -t 60 \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories=$folder $*" \
        start < /dev/null > /dev/null 2>&1 || { tail -n 20 "$folder/log" >&2; exit 1; }
    ;;
stop) as_nobody "$bin/pg_ctl" -D "$folder/data" -w -s -m "$3" stop ;;
esac
