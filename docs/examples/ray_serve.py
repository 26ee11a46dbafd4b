"""Answers to many requests at once: copies of a registered model behind Ray Serve, on one machine or a cluster.

pip install "ray[serve]"        # into an environment of its own: it changes the HTTP server that 'rlvo serve' uses
python ray_serve.py rlvo-ensemble@champion --data-root incoming --copies 4
curl -s 127.0.0.1:8000 -d '{"dataframe_records": [{"patient_id": "a", "cta": "a/cta.nii.gz"}]}'
"""

import argparse
import asyncio
import signal
from pathlib import Path

import pandas as pd
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

SERVED = {"_MLFLOW_IS_IN_SERVING_ENVIRONMENT": "true", "PYTHONDONTWRITEBYTECODE": "1"}
"""Tells the model that it is served: it then opens no file outside the data root."""


@serve.deployment(max_ongoing_requests=1)  # a copy answers one request at a time; Ray Serve queues the others
class Ensemble:
    """A copy of the model, in a process in which all of rlvo is the model's own."""

    def __init__(self, folder: str) -> None:
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(folder)

    async def __call__(self, request: Request) -> Response:
        """Answer JSON as MLflow's server takes it: `dataframe_records`, and `params` if need be."""
        try:
            asked = await request.json()
            table, params = pd.DataFrame(asked["dataframe_records"]), asked.get("params", {})
            answers = await asyncio.to_thread(self._model.predict, table, params)
        except Exception as error:  # noqa: BLE001 whatever the request is, the copy stays
            return JSONResponse({"error": str(error)}, status_code=400)
        return Response(answers.to_json(orient="records"), media_type="application/json")


if __name__ == "__main__":
    import rlvo

    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--workdir", default="rlvo-work")
    parser.add_argument("--copies", type=int, default=2)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    folder = rlvo.load_model(options.model, options.workdir).folder.resolve()  # its gate and its files are checked here
    environment = {"env_vars": SERVED | {"RLVO_DATA_ROOT": str(options.data_root.resolve())}}
    copies = Ensemble.options(num_replicas=options.copies, ray_actor_options={"runtime_env": environment})
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})  # no password: a proxy goes in front
    serve.run(copies.bind(str(folder)))
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    serve.shutdown()
