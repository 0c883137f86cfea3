"""The limits of a trained network that its ledger shows, in sentences."""

from collections.abc import Iterator

from analysis.card_facts import describe_undefined
from analysis.card_subject import Subject
from analysis.uncertainty import count_empty


def list_limits(subject: Subject) -> list[str]:
    """Return the limits, those of the test first."""
    return [*_limit_test(subject), *_limit_uncertainty(subject), *_limit_metrics(subject), *_limit_use(subject)]


def _limit_test(subject: Subject) -> Iterator[str]:
    """Yield what the images that were scored cannot show."""
    row, name = subject.row, subject.config.data.name
    if row["scored_on"] == "held-out":
        yield (
            "The metrics are of training images that were held out. Trials are chosen by such images, so the metrics are "
            "optimistic. This trial was not scored on the test images."
        )
    elif subject.configurations > 1:
        yield (
            f"{subject.configurations} configurations of this study were scored on these test images. If this one was chosen by "
            "them, its metrics are optimistic."
        )
    if subject.config.data.layout == "synthetic":
        yield "The images are synthetic. The results say nothing of patients."
    yield f"All images are of one data set, {name}, with one split. There was no test on external data."


def _limit_uncertainty(subject: Subject) -> Iterator[str]:
    """Yield what the intervals do not cover."""
    seeds, failed = subject.seeds, len(subject.tables.failed)
    if len(seeds) == 1:
        what = "deep ensemble" if subject.config.inference.seeds else "seed"
        yield (
            f"The study has one {what} of this configuration. Intervals do not cover the randomness of training, so differences to "
            "other trials may be chance."
        )
    else:
        yield f"The study has {len(seeds)} seeds of this configuration ({', '.join(map(str, seeds))})."
    if failed:
        yield f"{failed} more of its trials failed and {'is' if failed == 1 else 'are'} in no mean."
    if not subject.tested.notna().any():
        yield (
            "The data name no patients or volumes. If several images are of one patient, intervals are too narrow, and training "
            "and test images may be of one patient."
        )
    yield "The ledger does not record the number of patients or volumes among the training images."


def _limit_metrics(subject: Subject) -> Iterator[str]:
    """Yield for which images metrics say little."""
    words = describe_undefined(subject)
    yield f"{words[0].upper()}{words[1:]}."
    for share in count_empty(subject.alone)["share"]:
        yield (
            f"{share:.0%} of the masks are empty. IoU and Dice are 1 for an empty mask where nothing is predicted, and 0 where "
            "anything is."
        )
    if subject.config.inference.resolution == "network":
        yield "Predictions were compared with the masks at the size that the network sees, not at that of the files."


def _limit_use(subject: Subject) -> Iterator[str]:
    """Yield what the network cannot do."""
    yield "The network sees two-dimensional images. Volumes are segmented slice by slice, without their neighbours."
    if subject.config.inference.risk.metric != "none":
        yield (
            "The guarantee on the share of a mask that is missed holds on average over new patients who are like those that chose "
            "the threshold (exchangeable with them), not for each patient, nor for other scanners or hospitals. Patients without "
            "a mask count with a share of 0."
        )
    yield "Nothing here shows that the network is fit for clinical use."
    if not subject.has_network:
        yield "The store holds no weights of this trial, so it cannot predict."
