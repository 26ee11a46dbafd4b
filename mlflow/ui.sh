#!/bin/sh
# Open the MLflow UI on a work folder, for this machine only: mlflow/ui.sh [WORKDIR] [PORT]
set -eu

workdir=${1:-${RLVO_WORKDIR:-./rlvo-work}}
port=${2:-5000}

if [ ! -f "$workdir/mlflow.db" ]; then
    echo "$workdir: there is no mlflow.db here. Name a work folder, as for --workdir" >&2
    exit 2
fi
workdir=$(cd "$workdir" && pwd)

# The repository's own environment, if it is not activated.
PATH=$PATH:$(cd "$(dirname "$0")/.." && pwd)/.venv/bin
export MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false

echo "MLflow UI: http://127.0.0.1:$port (Ctrl-C ends it). The runs of each study:"
python - "$workdir/mlflow.db" "http://127.0.0.1:$port" << 'END'
import sqlite3
import sys

database, address = sys.argv[1:]
query = "select experiment_id, name from experiments where lifecycle_stage = 'active' and experiment_id > 0"
for number, name in sqlite3.connect(database).execute(query).fetchall():
    print(f"  {name}: {address}/#/experiments/{number}/runs?workflowType=machine_learning")
END
cd "$workdir"
exec mlflow ui \
    --backend-store-uri "sqlite:///$workdir/mlflow.db" \
    --default-artifact-root "$workdir/mlflow-artifacts" \
    --host 127.0.0.1 --port "$port" --workers 1
