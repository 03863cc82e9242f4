"""Metrics against cases worked by hand."""

import math

import pytest

from ctd_agent.distill.metrics import bootstrap, f1, ndcg, precision, rank_precision, recall

GOLD = {"a", "b", "c"}


def test_a_ranking_with_two_of_three_right_labels_in_its_first_four():
    ranking = ["a", "x", "b", "y", "c"]
    assert precision(ranking, GOLD, 1) == 1.0
    assert precision(ranking, GOLD, 4) == 2 / 4
    assert recall(ranking, GOLD, 4) == 2 / 3
    assert rank_precision(ranking, GOLD, 2) == 1 / 2  # two could be right, one is
    assert rank_precision(ranking, GOLD, 5) == 3 / 3  # only three can be right
    assert ndcg(ranking, GOLD, 3) == pytest.approx((1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3) + 1 / math.log2(4)))


def test_a_short_ranking_has_misses_for_what_it_lacks():
    assert precision(["a"], GOLD, 5) == 1 / 5
    assert rank_precision([], GOLD, 5) == 0.0
    assert ndcg([], GOLD, 5) == 0.0


def test_a_duplicate_counts_once():
    assert recall(["a", "a", "b"], GOLD, 2) == 2 / 3
    assert precision(["a", "a"], GOLD, 2) == 1 / 2


def test_empty_gold_is_an_error():
    with pytest.raises(ValueError, match="without gold"):
        precision(["a"], set(), 1)


def test_f1_of_a_chosen_set():
    assert f1(["a", "b", "x"], GOLD) == pytest.approx(2 / 3)
    assert f1([], GOLD) == 0.0


def test_a_bootstrap_interval_holds_the_mean_and_narrows_with_more_documents():
    few, many = bootstrap([0.0, 1.0] * 10), bootstrap([0.0, 1.0] * 1000)
    assert few.mean == many.mean == 0.5
    assert few.low < many.low < 0.5 < many.high < few.high
    assert bootstrap([0.0, 1.0] * 10) == few, "the same seed gives the same interval"


def test_a_constant_difference_has_an_interval_of_no_width():
    assert bootstrap([0.25] * 8) == (0.25, 0.25, 0.25)
