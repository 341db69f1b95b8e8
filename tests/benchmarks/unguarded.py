"""`python -m pipeline.train` without what guards a run, to measure what that costs; takes the same arguments.

No claim on the run, no look-up of earlier runs, no saved state, no look at the loss after each step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from pipeline import train
from pipeline.cli.terminal import import_tensorflow


@contextmanager
def _no_claim(*_: Any) -> Iterator[None]:
    yield None  # No file for the state: none is saved.


def _import_and_unguard() -> None:
    """In place of `import_tensorflow`, in the first run: what guards a run is imported after it."""
    vars(train)["import_tensorflow"] = import_tensorflow
    import_tensorflow()
    import keras

    from pipeline import run
    from pipeline.tracking import record
    from pipeline.training import callbacks

    guarded_keeper = callbacks.keeper

    def keeper_that_trusts_the_loss(*arguments: Any) -> Any:
        keeper = guarded_keeper(*arguments)
        type(keeper).on_train_batch_end = keras.callbacks.Callback.on_train_batch_end
        return keeper

    # `patch` refuses a name that is not there.
    patch.object(run, "exclusive", _no_claim).start()
    for module, look_up in ((run, "finished_run"), (run, "finished_by_peer"), (record, "unfinished_run")):
        patch.object(module, look_up, lambda *_: None).start()
    patch.object(callbacks, "keeper", keeper_that_trusts_the_loss).start()


def main() -> None:
    """Takes the guards away and runs the program."""
    vars(train)["import_tensorflow"] = _import_and_unguard
    train.main()


if __name__ == "__main__":
    sys.argv[0] = "pipeline.train"
    main()
