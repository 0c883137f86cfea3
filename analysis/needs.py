"""What charts need, in words, and the command that would make it. STUDY is a study's name, NEW another one, FILE its file."""

E1_OR_E2 = ("complete trials of E1 or E2", 'diffseg run FILE --extend  # with experiments = ["e1", "e2"] in FILE')
E2 = (
    "complete trials of E2 with training.snapshots, at which the errors over t are measured",
    'diffseg run FILE --extend  # with experiments = ["e2"] and training.snapshots = [1.0] in FILE',
)
E2_OR_E3 = (
    "complete trials of E2 or E3 with training.snapshots, at which the errors over t are measured",
    'diffseg run FILE --extend  # with experiments = ["e2", "e3"] and training.snapshots = [1.0] in FILE',
)
E3 = (
    "complete trials of E3 with training.snapshots, at which the errors over t are measured",
    'diffseg run FILE --extend  # with experiments = ["e3"] and training.snapshots = [1.0] in FILE',
)
EPSILON = (
    "complete trials of E2 with the ε-target, or of E4, with training.snapshots",
    'diffseg run FILE --extend  # with experiments = ["e2", "e4"], diffusion.target = "epsilon" and '
    "training.snapshots = [1.0] in FILE",
)
EXAMPLES = (
    "complete trials of E1 or E2 with inference.examples above 0",
    "diffseg run STUDY --name NEW inference.examples=8",
)
EXAMPLES_AND_LEVELS = (
    "complete trials of E2 with inference.examples above 0 and with training.snapshots",
    "diffseg run STUDY --name NEW inference.examples=8 'training.snapshots=[1.0]'  # with E2 in STUDY",
)
EVALUATIONS = (
    "trials that are evaluated while they train",
    "diffseg run STUDY --name NEW 'training.evaluations=[0.25, 0.5, 0.75]'",
)
RATERS = (
    "complete trials on data of several raters",
    "diffseg run FILE --extend  # with a data set of several masks an image in FILE",
)
SEARCHED = ("a search's complete trials", "diffseg run search --data NAME=ROOT")
