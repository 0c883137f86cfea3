"""Settings of a small instance of every network, and of two classes, for tests with and without a GPU."""

NETWORKS = {
    "ensemdiff": {"network.width": 32, "network.multipliers": [1, 2]},
    "segdiff": {"network.width": 32, "network.multipliers": [1, 2], "network.rrdb_blocks": 2},
    "medsegdiff": {"network.width": 32, "network.multipliers": [1, 2]},
    "medsegdiff v1": {"network.width": 32, "network.multipliers": [1, 2], "network.version": "v1"},
    "ambdiff": {"network.width": 32, "network.multipliers": [1, 2], "network.blocks": [1, 1], "network.middle": 1},
    "segformer": {"network.encoder": "mit_b0", "network.weights": "none"},
}
CLASSES = {"data.kind": "classes", "data.classes": {"smooth": 1, "grainy": 2}}
