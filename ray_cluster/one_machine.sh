#!/bin/sh
# A Ray on this machine, for jobs: ray_cluster/one_machine.sh TOKEN_FILE
# It stays in the foreground; Ctrl-C ends it, and no other Ray. (`rlvo search` alone needs none of this.)
# Beside another Ray, set RAY_PORT, RAY_DASHBOARD_PORT, RAY_AGENT_PORT, RAY_CLIENT_PORT, and RAY_TMPDIR for its files.
# Where 127.0.0.2 is no address of the machine (macOS): sudo ifconfig lo0 alias 127.0.0.2.
set -eu

token=${1:-}
if [ ! -s "$token" ]; then
    echo "${token:-no token file named}: no token here. Create one: (umask 077; openssl rand -hex 32 > ray.token)" >&2
    exit 2
fi
RAY_AUTH_TOKEN_PATH=$(cd "$(dirname "$token")" && pwd)/$(basename "$token")
export RAY_AUTH_TOKEN_PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

# The repository's own environment comes first: a job's `python` must be the one that has its packages.
PATH=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin:$PATH

# Ray takes 127.0.0.1 for "the address that others reach me by", but leaves other loopback addresses alone.
echo "Jobs and clients are served on loopback only. Ray's internal ports (${RAY_PORT:-6379} and random ones) listen on every" \
    "address of this machine, guarded by the token alone: close them to the network with a firewall." >&2
exec ray start --head --block --node-ip-address 127.0.0.2 --port "${RAY_PORT:-6379}" \
    --dashboard-host 127.0.0.1 --dashboard-port "${RAY_DASHBOARD_PORT:-8265}" --include-dashboard true \
    --dashboard-agent-listen-port "${RAY_AGENT_PORT:-52365}" --ray-client-server-port "${RAY_CLIENT_PORT:-10001}"
