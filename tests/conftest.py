"""What every test shares: a clean environment and one thread a process, so that runs repeat exactly."""

import os

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    RAY_USAGE_STATS_ENABLED="0",
    OMP_NUM_THREADS="1",
)
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "RLVO_WORKDIR", "RAY_ADDRESS"):
    os.environ.pop(name, None)
