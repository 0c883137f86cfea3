import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffseg.evaluation.pareto import dominates, front, losses, ranks

POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=20)


def test_ranks_are_those_of_non_dominated_sorting():
    assert ranks([(3.0,), (1.0,), (2.0,), (1.0,)]) == [2, 0, 1, 0]
    assert ranks([(0, 3), (1, 1), (3, 0), (2, 2), (3, 3), (1, 1)]) == [0, 0, 0, 1, 2, 0]


def test_losses_are_turned_so_that_less_is_better():
    assert losses({"iou": 0.8, "ece": 0.1}, ("iou", "ece")) == (-0.8, 0.1)
    assert losses({"iou": float("nan")}, ("iou",)) is None
    assert losses({"iou": 0.8}, ("iou", "ece")) is None


@given(POINTS)
def test_the_front_has_every_point_that_none_dominates(points):
    values = np.array(points).reshape(-1, 2)
    expected = {
        place for place, point in enumerate(values) if not ((values <= point).all(1) & (values < point).any(1)).any()
    }
    found = front(points)
    assert len(found) == len(set(found))
    assert set(found) == expected == {place for place, rank in enumerate(ranks(points)) if rank == 0}
    assert [points[place] for place in found] == sorted(points[place] for place in found)


@given(POINTS)
def test_a_point_of_a_later_front_is_dominated_by_one_of_the_front_before(points):
    found = ranks(points)
    for point, rank in zip(points, found, strict=True):
        if rank:
            assert any(dominates(other, point) for other, r in zip(points, found, strict=True) if r == rank - 1)
