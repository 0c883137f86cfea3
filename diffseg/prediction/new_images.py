"""Predictions of a finished trial for new images, written as files: masks, maps and samples.

A picture NAME yields NAME_mask.png (0 or 255), NAME_mean.png (255 times the foreground probability), NAME_sd.png (510 times
its standard deviation over the ensemble) and NAME_sample-0.png and so on; a NIfTI volume yields volumes of these names with
its own geometry, masks as uint8 of 0 and 1, maps as float32.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffseg import data
from diffseg.config import Config
from diffseg.data import nifti
from diffseg.data.files import PICTURES, VOLUMES, is_volume, list_files, stem
from diffseg.data.records import Record
from diffseg.data.scaling import Scaling
from diffseg.data.slices import list_slices
from diffseg.data.splits import Split
from diffseg.errors import DataError, UserError
from diffseg.experiments import build_experiment
from diffseg.prediction.merging import Prediction, pool_predictions
from diffseg.training.execution import choose_device

AT_ONCE = 16  # pictures that are decoded together


def predict_files(
    config: Config,
    folder: Path,
    scaling: Scaling,
    inputs: list[Path],
    output: Path,
    device: torch.device | str | None = None,
    folder_of: Callable[[Config], Path] | None = None,
    checkpoint_of: Callable[[Config], str | None] = lambda config: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Predict the inputs with the trial whose checkpoints lie in `folder`; return the files written into `output`.

    inputs: pictures, NIfTI volumes, folders of them; for BRATS folders of a patient. scaling: how the trial's training
    images became numbers. folder_of: the folder of a deep ensemble's member. checkpoint_of: the file that the training of
    the trial or of a member ended with, if it is known; else the newest one has to be of the last step. on_progress is told
    how many of how many images or slices are done. Nothing is written but into `output`. Raises UserError for a trial that
    cannot predict, a device that is not there, a checkpoint that is missing, damaged or another network's, an input that
    cannot be read, or an output that cannot be written.
    """
    config = config.resolved()
    if not build_experiment(config).segments:
        raise UserError(f"experiment {config.experiment} segments nothing: give a trial of e1 or e2")
    device = _usable(device)
    groups = _groups(config, inputs)
    predict = _predictor(config, folder, device, folder_of, checkpoint_of)
    written, done, total = [], 0, sum(map(len, groups))
    try:
        output.mkdir(parents=True, exist_ok=True)
        for records in groups:
            split = data.load_unlabelled(config.data, records, scaling).to(device)
            volume = _Volume(records[0].volume) if records[0].volume else None
            for record, prediction in _each(predict, split, records):
                maps = _maps(prediction, config.inference.threshold)
                if volume:
                    volume.add(record, maps)
                else:
                    written += _write_pictures(output, record.name, maps)
                done += 1
                on_progress(done, total)
            if volume:
                written += volume.write(output, records[0].group)
    except OSError as error:
        raise UserError(f"the predictions cannot be written to {output} ({error}): give another --output") from None
    return written


def _usable(asked: torch.device | str | None) -> torch.device:
    """The device to compute on. Raises UserError if it is none, or is not there."""
    try:
        device = choose_device(asked)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch raises either
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"device '{asked}' cannot be used ({reason[0]}): give another --device, such as cpu") from None
    return device


def _each(
    predict: Callable[[Split], Iterator[Prediction]], split: Split, records: list[Record]
) -> Iterator[tuple[Record, Prediction]]:
    """The records with their predictions.

    A picture is predicted on its own: in a batch with others its numbers would differ in their last bits.
    """
    if records[0].volume:
        yield from ((records[prediction.index], prediction) for prediction in predict(split))
        return
    for index, record in enumerate(records):
        yield from ((record, prediction) for prediction in predict(split.subset(torch.tensor([index]))))


def _groups(config: Config, inputs: list[Path]) -> list[list[Record]]:
    """The records of the inputs: each volume's together, pictures AT_ONCE. Raises DataError."""
    layout = data.LAYOUTS.get(config.data.layout)
    if layout and layout.list_new:
        slices, pictures = [layout.list_new(path) for path in inputs], []
    else:
        paths = [path for given in inputs for path in _files(given)]
        slices = [list_slices(_record(path), config.data.axis) for path in paths if is_volume(path)]
        pictures = [_record(path) for path in paths if not is_volume(path)]
    names: dict[str, Record] = {}
    for record in [*(own[0] for own in slices), *pictures]:
        if (other := names.setdefault(record.group or record.name, record)) is not record:
            raise DataError(
                f"{record.image} and {other.image} have one name, and so would their predictions: rename one"
            )
    return slices + [pictures[first : first + AT_ONCE] for first in range(0, len(pictures), AT_ONCE)]


def _record(path: Path) -> Record:
    """An image without masks; a volume is a group."""
    name = stem(path.name)
    return Record(name, "test", path, (), name if is_volume(path) else None)


def _files(given: Path) -> list[Path]:
    if given.is_dir():
        found = [path for paths in list_files(given, PICTURES + VOLUMES).values() for path in paths]
        if not found:
            raise DataError(f"{given} holds no image: give files or folders of {', '.join(PICTURES + VOLUMES)}")
        return found
    if not given.is_file():
        raise DataError(f"{given} is neither a file nor a folder")
    return [given]


def _predictor(
    config: Config,
    folder: Path,
    device: torch.device,
    folder_of: Callable[[Config], Path] | None,
    checkpoint_of: Callable[[Config], str | None],
) -> Callable[[Split], Iterator[Prediction]]:
    """The trial's network, or networks, as a function of the images, which are predicted at their own size.

    Raises UserError if a checkpoint cannot be used.
    """
    sized = config.with_leaves({"inference.resolution": "original"})  # of another name than the trial
    if config.inference.seeds:
        folder_of = folder_of or (lambda member: folder / member.digest)
        members = [_predictor(member, folder_of(member), device, None, checkpoint_of) for member in config.members()]
        return lambda split: (
            pool_predictions(same) for same in zip(*(member(split) for member in members), strict=True)
        )
    predict = config.network.implementation().load(config, folder, device, checkpoint_of(config))
    return lambda split: predict(split, sized)


def _maps(prediction: Prediction, threshold: float) -> dict[str, np.ndarray]:
    """By the end of the file's name: bool [H, W] for masks, float32 [H, W] for maps."""
    maps = {"mask": prediction.mean > threshold, "mean": prediction.mean, "sd": prediction.sd}
    maps |= {f"sample-{k}": mask for k, mask in enumerate(prediction.masks)}
    return {kind: pixels.cpu().numpy() for kind, pixels in maps.items()}


def _write_pictures(output: Path, name: str, maps: dict[str, np.ndarray]) -> list[Path]:
    written = []
    for kind, pixels in maps.items():
        grays = pixels * (510.0 if kind == "sd" else 255.0)
        written.append(output / f"{name}_{kind}.png")
        Image.fromarray(grays.round().astype(np.uint8)).save(written[-1])
    return written


class _Volume:
    """The maps of a volume's slices, put together; what no slice was made of stays 0."""

    def __init__(self, path: Path):
        self.header, self.maps = nifti.read_header(path), {}

    def add(self, record: Record, maps: dict[str, np.ndarray]) -> None:
        inside = slice(record.margin, -record.margin or None)
        for kind, pixels in maps.items():
            dtype = np.uint8 if pixels.dtype == bool else np.float32
            whole = self.maps.setdefault(kind, np.zeros(self.header.grid, dtype))
            np.moveaxis(whole, record.axis, 2)[inside, inside, record.index] = pixels

    def write(self, output: Path, name: str) -> list[Path]:
        import nibabel

        written = []
        for kind, numbers in self.maps.items():
            header = self.header.nifti.copy()
            header.set_data_dtype(numbers.dtype)
            header["cal_min"] = header["cal_max"] = 0  # the window of the image
            kind_of = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
            image = kind_of(numbers.reshape(self.header.dimensions), header.get_best_affine(), header)
            written.append(output / f"{name}_{kind}.nii.gz")
            nibabel.save(image, written[-1])
        return written
