"""The kinds of classes that a prediction may have, as settings of the fixture `tiny`."""

KINDS = {
    "binary": {},
    "classes": {"data__classes": [["one", 1], ["two", [2, 3]]]},
    "regions": {"data__classes": [["whole", [1, 2, 4]], ["core", [1, 4]], ["enhancing", 4]], "data__regions": True},
}
