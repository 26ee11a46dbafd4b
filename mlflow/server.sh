#!/bin/sh
# Start the team server: mlflow/server.sh SETTINGS, a filled-in copy of mlflow/server.env.example
set -eu

fail() {
    echo "$1" >&2
    exit 2
}

settings=${1:-}
[ -f "$settings" ] || fail "${settings:-no settings named}: no such file. Copy mlflow/server.env.example and fill it in"
[ -z "$(find "$settings" -prune -perm /077)" ] || fail "$settings: others can read the passwords in it. chmod 600 $settings"
folder=$(cd "$(dirname "$settings")" && pwd)

set -a
# shellcheck source=/dev/null
. "$folder/$(basename "$settings")"
set +a

for name in MLFLOW_BACKEND_STORE_URI MLFLOW_ARTIFACTS_DESTINATION MLFLOW_AUTH_ADMIN_USERNAME MLFLOW_AUTH_ADMIN_PASSWORD \
    MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_SERVER_ALLOWED_HOSTS MLFLOW_HOST MLFLOW_PORT MLFLOW_WORKERS; do
    eval "value=\${$name:-}"
    [ -n "$value" ] || fail "$settings: $name is empty. Fill it in"
done

# Users are kept in the same database and see only what was granted to them. The file holds the database's password.
umask 077
export MLFLOW_AUTH_CONFIG_PATH="$folder/basic_auth.ini"
{
    echo "[mlflow]"
    echo "default_permission = NO_PERMISSIONS"
    printf 'database_uri = %s\n' "$MLFLOW_BACKEND_STORE_URI" | sed 's/%/%%/g'
} >"$MLFLOW_AUTH_CONFIG_PATH"

# The repository's own environment, if it is not activated.
PATH=$PATH:$(cd "$(dirname "$0")/.." && pwd)/.venv/bin
export MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
unset MLFLOW_TRACKING_URI

cd "$folder" # all settings come from the environment, so that no password shows in the list of processes
exec mlflow server --app-name basic-auth
