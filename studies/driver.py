"""One Tune trial: a small process that has Ray Train run one order on a worker, and outlives the worker's deaths."""

import logging
import traceback

from ray import tune

from studies.worker import Order, record_failure, work

WORKER_DEATHS = 3  # after so many a trial counts as failed


def drive(config: dict) -> None:
    """Tune's function trainable; config holds the fields of an Order."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    order = Order(**config)
    resources = {"CPU": order.cpus} | ({"GPU": order.gpus} if order.gpus else {})
    trainer = TorchTrainer(
        loop,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=1, use_gpu=bool(order.gpus), resources_per_worker=resources),
        run_config=RunConfig(
            name=f"{order.trial}-{order.attempt}-{tune.get_context().get_trial_id()}",  # nothing of it is ever restored
            storage_path=order.scratch,
            failure_config=FailureConfig(max_failures=WORKER_DEATHS),
        ),
    )
    try:
        status = trainer.fit().return_value
    except Exception as fault:  # the worker died again and again, or could not be started
        logging.error("%s", traceback.format_exc())
        status = record_failure(order, f"its worker died {WORKER_DEATHS + 1} times ({type(fault).__name__}: {fault})")
    tune.report({"status": status, "finished": True})


def loop(config: dict) -> str:
    """Ray Train's training function, on the worker."""
    return work(Order(**config))
