# NVIDIA FLARE is not where the types are checked.
# mypy: disable-error-code="import-not-found,misc"
"""Components that the job adds to FLARE's server and, in the tuned job, to its clients."""

import json
import os
import time
from pathlib import Path

import torch
from nvflare.apis.executor import Executor
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_constant import FLMetaKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from bench.flare.local_work import STORE, JobModel, LocalWork, load
from bench.workload import Examples, evaluate


class ServerEvaluation(FLComponent):
    """Evaluates each aggregated model on the test split, as the other contenders' servers do."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Evaluate after aggregation and log one line that the benchmark reads."""
        if event_type != AppEventType.AFTER_AGGREGATION:
            return
        if not hasattr(self, "examples"):
            torch.set_num_threads(1)
            device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
            self.examples = Examples.load(Path(os.environ[STORE]), "test", device)
            self.network = JobModel().to(device)
        result = fl_ctx.get_prop(AppConstants.AGGREGATION_RESULT)
        load(self.network, result.params)
        loss, accuracy = evaluate(self.network, self.examples)
        report = {"time": time.time(), "accuracy": accuracy, "loss": loss}
        self.log_info(fl_ctx, f"BENCH {json.dumps(report)}")


class TunedExecutor(Executor):
    """Trains in the task's own thread: FLARE's Client API would poll for the result every half second."""

    def __init__(self) -> None:
        super().__init__()
        self.work: LocalWork | None = None

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """One round."""
        if self.work is None:
            self.work = LocalWork(fl_ctx.get_identity_name())
        received = FLModelUtils.from_shareable(shareable)
        state, metrics, count = self.work.round(received.params, received.current_round or 0)
        params = {name: value.numpy() for name, value in state.items()}
        return FLModelUtils.to_shareable(
            FLModel(params=params, metrics=metrics or None, meta={FLMetaKey.NUM_STEPS_CURRENT_ROUND: count})
        )
