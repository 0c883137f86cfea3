"""Predictions of a finished trial for new images, written as files: masks, maps and samples.

A picture NAME yields NAME_mask.png, NAME_mean.png (255 times the foreground probability), NAME_sd.png (510 times its standard
deviation over the ensemble), NAME_sample-0.png and so on. Of several classes there are maps of each, such as
NAME_mean-CLASS.png. Masks hold 0 and 255, or the values of the named classes with the palette of the training masks
(`MaskValues`). A NIfTI volume yields volumes of these names with its own geometry: maps as float32, masks as the smallest whole
numbers that hold their values, 0 and 1 if no class is named.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from diffseg import data
from diffseg.config import Config
from diffseg.data.records import Record
from diffseg.data.scaling import Scaling
from diffseg.data.splits import Split
from diffseg.errors import UserError
from diffseg.evaluation.risk import with_threshold
from diffseg.experiments import build_experiment
from diffseg.prediction.inputs import list_records
from diffseg.prediction.mask_format import MaskFormat
from diffseg.prediction.mask_values import MaskValues
from diffseg.prediction.merging import Prediction, pool_predictions
from diffseg.prediction.outputs import VolumeMaps, make_maps, write_pictures
from diffseg.training.execution import choose_device


def predict_files(
    config: Config,
    folder: Path,
    scaling: Scaling,
    inputs: list[Path],
    output: Path,
    device: torch.device | str | None = None,
    masks: MaskFormat | None = None,
    folder_of: Callable[[Config], Path] | None = None,
    checkpoint_of: Callable[[Config], str | None] = lambda config: None,
    threshold: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Predict images with a finished trial. Files are written into `output` only.

    Args:
        config: The trial.
        folder: The folder of its checkpoints.
        scaling: How the trial's training images became numbers.
        inputs: Pictures, NIfTI volumes, and folders of them, which are read with their sub-folders; for BRATS folders of a
            patient, or of patients.
        output: The folder to write into. Files of images in sub-folders lie in sub-folders of the same names.
        device: The device to compute on; None for a GPU if there is one, else the CPU.
        masks: The format of the trial's training masks; None if it is not known, or no class is named.
        folder_of: Returns the folder of a deep ensemble's member; None for folders below `folder`.
        checkpoint_of: Returns the file that the training of the trial, or of a member, ended with; None for the newest
            file, which then has to be of the last step.
        threshold: That the trial chose by its inference.risk; None for inference.threshold.
        on_progress: Called with the number of images or slices done, and their total.

    Returns:
        The files written.

    Raises:
        UserError: The trial cannot predict, the device is not available, a checkpoint is missing, damaged or of another
            network, an input cannot be read, or an output cannot be written.
    """
    config = config.resolved()
    if not build_experiment(config).segments:
        raise UserError(f"experiment {config.experiment} segments nothing: give a trial of e1 or e2")
    device = _check_device(device)
    deciding = config if threshold is None else with_threshold(config, threshold)
    groups, values = list_records(config, inputs, output), MaskValues.of(config.data, masks or MaskFormat())
    predict = _load_predictor(config, folder, device, folder_of, checkpoint_of)
    written: list[Path] = []
    done, total = 0, sum(map(len, groups))
    try:
        output.mkdir(parents=True, exist_ok=True)
        for records in groups:
            split = data.load_unlabelled(config.data, records, scaling).to(device)
            volume = VolumeMaps(records[0].volume, values) if records[0].volume else None
            for record, prediction in _predict_records(predict, split, records):
                maps = make_maps(prediction, deciding)
                if volume:
                    volume.add(record, maps)
                else:
                    written += write_pictures(output, record.name, maps, values)
                done += 1
                on_progress(done, total)
            if volume:
                written += volume.write(output, records[0].shared_name)
    except OSError as error:
        raise UserError(f"the predictions cannot be written to {output} ({error}): give another --output") from None
    return written


def _check_device(requested: torch.device | str | None) -> torch.device:
    """Return the device to compute on.

    Raises:
        UserError: It is not a device, or not available.
    """
    try:
        device = choose_device(requested)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch raises either
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"device '{requested}' cannot be used ({reason[0]}): give another --device, such as cpu"
        ) from None
    return device


def _predict_records(
    predict: Callable[[Split], Iterator[Prediction]], split: Split, records: list[Record]
) -> Iterator[tuple[Record, Prediction]]:
    """Yield the records with their predictions.

    Each picture is predicted alone: in a batch with others its numbers would differ in their last bits.
    """
    if records[0].volume:
        yield from ((records[prediction.index], prediction) for prediction in predict(split))
        return
    for index, record in enumerate(records):
        yield from ((record, prediction) for prediction in predict(split.subset(torch.tensor([index]))))


def _load_predictor(
    config: Config,
    folder: Path,
    device: torch.device,
    folder_of: Callable[[Config], Path] | None,
    checkpoint_of: Callable[[Config], str | None],
) -> Callable[[Split], Iterator[Prediction]]:
    """Load the trial's network, or those of its members, as a function that predicts images at their own size.

    Raises:
        UserError: A checkpoint cannot be used.
    """
    if config.inference.seeds:
        folder_of = folder_of or (lambda member: folder / member.digest)
        members = [
            _load_predictor(member, folder_of(member), device, None, checkpoint_of) for member in config.members()
        ]
        return lambda split: (
            pool_predictions(list(same)) for same in zip(*(member(split) for member in members), strict=True)
        )
    predict = config.network.implementation().load(config, folder, device, checkpoint_of(config))
    sized = config.with_leaves({"inference.resolution": "original"})  # another digest than the trial's
    return lambda split: predict(split, sized)
