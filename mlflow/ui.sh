#!/bin/sh
# Open the MLflow UI on a work folder, for this machine only: mlflow/ui.sh [WORKDIR] [PORT], as `rlvo ui` does.
set -eu

# The repository's own environment, if it is not activated.
PATH=$PATH:$(cd "$(dirname "$0")/.." && pwd)/.venv/bin
exec rlvo ui --workdir "${1:-${RLVO_WORKDIR:-./rlvo-work}}" ${2:+--port "$2"}
