"""The driver of a trial: a Tune trial that makes Ray Train run one request on workers, and outlives the workers' deaths."""

import asyncio
import logging
import traceback
from dataclasses import replace
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from diffseg.training.parallel import MEASUREMENT_TIMEOUT
from studies.engine.files import SCRATCH
from studies.engine.preparation import NotShared
from studies.engine.records import record_failure
from studies.engine.request import TrialRequest
from studies.engine.worker import run_trial
from studies.store.ledger import Ledger

WORKER_DEATHS = (
    100  # of an attempt, after which it has failed; worker.WORKER_DEATHS is for those without a new checkpoint
)


def run_driver(config: dict[str, Any]) -> None:
    """Run one trial: Tune's function trainable. config: the fields of a TrialRequest.

    Errors of the machinery, such as a store without room for Ray's own files, are raised: they are no fault of the trial.
    """
    request = TrialRequest(**config)
    trainer = _build_trainer(request, config | {"driver": uuid4().hex})
    try:
        result = trainer.fit().return_value
        status = record_failure(request, result["unshared"]) if isinstance(result, dict) else result
    except WorkerGroupError as fault:  # the workers died again and again
        logging.error("%s", traceback.format_exc())
        status = record_failure(request, f"its worker died {WORKER_DEATHS + 1} times ({type(fault).__name__}: {fault})")
    tune.report({"status": status, "finished": True})


def _build_trainer(request: TrialRequest, config: dict[str, Any]) -> "LeanTrainer":
    resources = {"CPU": request.cpus, "GPU": request.gpus, "memory": request.memory}
    return LeanTrainer(
        train_loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=request.workers,
            use_gpu=bool(request.gpus),
            resources_per_worker={kind: amount for kind, amount in resources.items() if amount},
            label_selector=request.labels or None,
        ),
        torch_config=TorchConfig(timeout_s=int(MEASUREMENT_TIMEOUT.total_seconds())),
        run_config=RunConfig(
            name=f"{request.attempt}-{tune.get_context().get_trial_id()}",  # unique, since Ray must restore nothing
            **scratch_storage(request.ledger, request.trial),
            failure_config=FailureConfig(max_failures=WORKER_DEATHS),
        ),
    )


def train_loop(config: dict[str, Any]) -> str | dict[str, str]:
    """Run the trial on a worker: Ray Train's training function. Its result goes back to the driver, which has the store."""
    try:
        return run_trial(replace(TrialRequest(**config), node=ray.get_runtime_context().get_node_id()))
    except NotShared as error:
        return {"unshared": str(error)}


def scratch_storage(ledger: Ledger, name: str) -> dict[str, Any]:
    """Return where Ray's own files go, as settings that the RunConfig of Tune and that of Train share."""
    folder = ledger.folder.at(f"{SCRATCH}/{name}")
    return {"storage_path": folder.path} | ({} if folder.local else {"storage_filesystem": folder.filesystem})


class LeanTrainer(TorchTrainer):  # type: ignore[misc]  # Ray is untyped
    """TorchTrainer with three processes fewer a trial, which take more than half of a trial's start on a small machine.

    - The controller runs in the driver, which is a process already and is kept between trials, instead of in an actor.
    - The actor that serves Ray Data is not needed.
    - The actor that frees the placement group of a killed driver asks the dashboard every second. Instead, the group's id
      is noted in the scratch folder, and the session, which hears of the driver's death anyway, frees it (`clean_up`).
    """

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        from ray.train.v2._internal.execution.controller import TrainController

        controller = TrainController(**settings)
        asyncio.run(controller.run())
        return controller.get_result()

    def _create_default_callbacks(self) -> list[Any]:
        spared = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
        kept = [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in spared]
        return [*kept, _note_placement_group(TrialRequest(**self.train_loop_config))]


def _note_placement_group(request: TrialRequest) -> Any:
    """Build a callback that notes the id of the workers' placement group in the scratch folder."""
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class Note(WorkerGroupCallback):  # type: ignore[misc]  # Ray is untyped
        def after_worker_group_start(self, worker_group: Any) -> None:
            group = worker_group.get_worker_group_state().placement_group_handle.placement_group
            request.ledger.folder.write(_note(request), group.id.hex().encode())

    return Note()


def clean_up(request: TrialRequest, died: bool) -> None:
    """Remove Ray's files of a trial that has ended. If its driver died, also free what its workers held."""
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    if died and (note := request.ledger.folder.read(_note(request))):
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(note.decode()))))
    request.ledger.folder.at(f"{SCRATCH}/{request.trial}").clear()


def _note(request: TrialRequest) -> str:
    return f"{SCRATCH}/{request.trial}/placement-group"
