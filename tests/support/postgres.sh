#!/usr/bin/env bash
# A Postgres for tests. `postgres.sh start DIR` makes a cluster in DIR, starts it on a free port and prints its URL;
# `postgres.sh stop DIR` stops it as a crash would, and `start` starts it again on the same port. Nothing of it outlives
# DIR. KEYWARD_POSTGRES_SETTINGS adds settings (`-c name=value ...`), which win.
# Each test leaves a database of 7 MB in 300 files, so a DIR in memory (/dev/shm) is the one to choose where there is room.
set -euo pipefail

usage() {
    echo "usage: postgres.sh start|stop DIR" >&2
    exit 2
}
[[ $# -eq 2 ]] || usage
command=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)

bin=${KEYWARD_POSTGRES_BIN:-}
if [[ -z $bin ]]; then
    for candidate in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)"; do
        if [[ -x $candidate/initdb ]]; then bin=$candidate; fi
    done
fi
[[ -n $bin ]] || { echo "postgres.sh: no Postgres found: install it (Debian: postgresql) or set KEYWARD_POSTGRES_BIN" >&2; exit 1; }

# Postgres refuses to run as root.
as_owner() {
    if [[ $(id -u) -ne 0 ]]; then "$@"; else runuser -u "$owner" -- "$@"; fi
}
owner=$(id -un)
if [[ $(id -u) -eq 0 ]]; then
    if id postgres >/dev/null 2>&1; then owner=postgres; else owner=nobody; fi
fi

start() {
    if [[ $(id -u) -eq 0 ]]; then chown "$owner" "$dir"; fi
    cd "$dir"
    if [[ ! -d data ]]; then
        as_owner "$bin/initdb" -D "$dir/data" -U postgres --auth=trust -E UTF8 --locale=C --no-sync >"$dir/initdb.log"
    fi
    # What the protocol needs durable it asks for itself, so that a crash of the server (not of the machine) keeps it.
    local settings="-c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=300 -c fsync=off \
        -c synchronous_commit=off -c full_page_writes=off -c log_min_messages=warning \
        -c authentication_timeout=5 ${KEYWARD_POSTGRES_SETTINGS:-}"
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        local port
        port=$(cat port 2>/dev/null || echo $((20000 + RANDOM % 12000)))
        if as_owner "$bin/pg_ctl" -D "$dir/data" -w -l "$dir/postgres.log" -o "-p $port $settings" start >/dev/null 2>&1; then
            echo "$port" >port
            echo "postgres://postgres@127.0.0.1:$port"
            return
        fi
    done
    echo "postgres.sh: Postgres did not start; the end of $dir/postgres.log:" >&2
    tail -n 20 "$dir/postgres.log" >&2 || true
    exit 1
}

case $command in
    start) start ;;
    stop) cd "$dir" && as_owner "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null ;;
    *) usage ;;
esac
