"""What masks mean: their classes, how a diffusion codes them, and how networks' outputs become probabilities and masks.

`classes` names the classes and numbers the pixels of stored masks; `codings` are the signals that a diffusion noises;
`labels` joins both for a trial. Nothing else counts the channels of masks.
"""
