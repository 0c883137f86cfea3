"""One Tune trial: a small process that has Ray Train run one order on a worker, and outlives the worker's deaths."""

import asyncio
import logging
import traceback
from dataclasses import replace
from uuid import uuid4

import ray
from ray import tune
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer

from diffseg.training.parallel import WAITING
from studies.engine.worker import SCRATCH, NotShared, Order, record_failure, work
from studies.store.ledger import Ledger

WORKER_DEATHS = (
    100  # of an attempt, after which it has failed; without coming further, fewer suffice (studies/worker.py)
)


def drive(config: dict) -> None:
    """Tune's function trainable; config holds the fields of an Order.

    What goes wrong with the machinery, such as a store without room for Ray's own files, is raised: it is no trial's fault.
    """
    order = Order(**config)
    resources = {"CPU": order.cpus, "GPU": order.gpus, "memory": order.memory}
    trainer = LeanTrainer(
        loop,
        train_loop_config=config | {"driver": uuid4().hex},
        scaling_config=ScalingConfig(
            num_workers=order.workers,
            use_gpu=bool(order.gpus),
            resources_per_worker={kind: amount for kind, amount in resources.items() if amount},
            label_selector=order.labels or None,
        ),
        torch_config=TorchConfig(timeout_s=int(WAITING.total_seconds())),
        run_config=RunConfig(
            name=f"{order.attempt}-{tune.get_context().get_trial_id()}",  # nothing of it is ever restored
            **scratch(order.ledger, order.trial),
            failure_config=FailureConfig(max_failures=WORKER_DEATHS),
        ),
    )
    try:
        found = trainer.fit().return_value
        status = record_failure(order, found["unshared"]) if isinstance(found, dict) else found
    except WorkerGroupError as fault:  # it died again and again
        logging.error("%s", traceback.format_exc())
        status = record_failure(order, f"its worker died {WORKER_DEATHS + 1} times ({type(fault).__name__}: {fault})")
    tune.report({"status": status, "finished": True})


def loop(config: dict) -> str | dict:
    """Ray Train's training function, on the worker; its result comes back to the driver, who has the store in any case."""
    try:
        return work(replace(Order(**config), node=ray.get_runtime_context().get_node_id()))
    except NotShared as error:
        return {"unshared": str(error)}


def scratch(ledger: Ledger, name: str) -> dict:
    """Where Ray's own files go, which nobody needs after the session: settings of both kinds of RunConfig."""
    folder = ledger.folder.at(f"{SCRATCH}/{name}")
    return {"storage_path": folder.path} | ({} if folder.local else {"storage_filesystem": folder.filesystem})


class LeanTrainer(TorchTrainer):
    """TorchTrainer with three processes fewer a trial, which cost more than half of a trial's start on a small machine.

    The controller runs in the driver, which is one already and is kept between trials, instead of in an actor beside
    it. The actor that serves Ray Data is not needed. The actor that frees the placement group of a killed driver, by
    asking the dashboard every second, is replaced: the group's id is noted in the scratch folder, and the session, which
    hears of the driver's death anyway, frees it (`clear`).
    """

    def _initialize_and_run_controller(self, **settings):
        from ray.train.v2._internal.execution.controller import TrainController

        controller = TrainController(**settings)
        asyncio.run(controller.run())
        return controller.get_result()

    def _create_default_callbacks(self):
        spared = {"DatasetsCallback", "PlacementGroupCleanerCallback"}
        kept = [callback for callback in super()._create_default_callbacks() if type(callback).__name__ not in spared]
        return [*kept, _note_placement_group(self.train_loop_config)]


def _note_placement_group(config: dict):
    from ray.train.v2._internal.execution.callback import WorkerGroupCallback

    class Note(WorkerGroupCallback):
        def after_worker_group_start(self, worker_group) -> None:
            group = worker_group.get_worker_group_state().placement_group_handle.placement_group
            order = Order(**config)
            order.ledger.folder.write(_note(order), group.id.hex().encode())

    return Note()


def clear(order: Order, died: bool) -> None:
    """Remove Ray's files of a trial that has ended, and if its driver died, give back what its worker held."""
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    if died and (note := order.ledger.folder.read(_note(order))):
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(note.decode()))))
    order.ledger.folder.at(f"{SCRATCH}/{order.trial}").clear()


def _note(order: Order) -> str:
    return f"{SCRATCH}/{order.trial}/placement-group"
