"""What should replace the Dense layers after a fully convolutional network, tried, measured and compared."""

import os

# MLflow reads it when it is imported, and so do servers and workers, which inherit it. A value of the user stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
