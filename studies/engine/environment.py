"""The environment variables that Ray and its processes read, and the address of the cluster to join."""

import os

# glibc gives large tensors back to the system as soon as they are freed, and the kernel clears their pages again for the next
# ones. Kept instead: measuring errors over t at 64 px takes half as long (2.2 s a batch to 1.1), a training step 0.9 times.
MALLOC = {
    "MALLOC_ARENA_MAX": "1",  # Train's loop runs in a thread, whose own arena would not keep more than 64 MiB
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
}
ENVIRONMENT = MALLOC | {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0, Tune prints nothing
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean what they meant to the user
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon the end of a worker is noticed
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our own stops trials at a checkpoint
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
ON_CLUSTERS = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800",  # a cluster may have to start a node first
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",  # its nodes may be taken away
}
ON_THIS_MACHINE = {"RAY_AUTH_MODE": "disabled"}  # a Ray that only this machine reaches


def resolve_address(given: str | None) -> str | None:
    """Return the address of the cluster to join, by --address or else RAY_ADDRESS; None for a Ray on this machine.

    No address, an empty one and "local" mean a Ray on this machine.
    """
    address = given or os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


def set_environment(address: str | None) -> None:
    """Set the variables of this process. Call it before ray.tune and ray.train are imported, which read them."""
    os.environ |= ENVIRONMENT | ({} if address else ON_THIS_MACHINE)
    if address is None:
        os.environ.pop("RAY_ADDRESS", None)  # of a cluster that this session does not use
