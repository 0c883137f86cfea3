"""Trees of JSON and YAML for tests that change them at random."""


def replace_at(tree, path, value):
    """Copy a tree with another value at a path of integers, which are taken modulo the number of children.

    A path that is longer than the tree is deep ends at a leaf; an empty one replaces the tree.
    """
    if not path or not isinstance(tree, dict | list) or not tree:
        return value
    if isinstance(tree, dict):
        key = sorted(tree, key=str)[path[0] % len(tree)]
        return tree | {key: replace_at(tree[key], path[1:], value)}
    place = path[0] % len(tree)
    return [*tree[:place], replace_at(tree[place], path[1:], value), *tree[place + 1 :]]
