"""Metrics against cases worked by hand, and against scikit-learn, ir-measures and pyxclib."""

import math
import random
import warnings

import ir_measures
import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from ctd_agent.measure.metrics import (
    Statistic,
    bootstrap,
    coverage,
    f1,
    inverse_propensity,
    macro_f1,
    mean_of,
    ndcg,
    precision,
    propensity_scored,
    rank_precision,
    ratio_of,
    recall,
)

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


# Against other implementations, on random rankings and sets


CATALOGUE = [f"label{number}" for number in range(30)]


def random_run(seed: int) -> tuple[list[list[str]], list[list[str]], list[set[str]]]:
    """Forty documents: the ranking of each, the labels chosen of it, and those that are right."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    rankings = [chance.sample(CATALOGUE, chance.randint(1, 25)) for _ in range(40)]
    chosen = [ranking[: chance.randint(0, 4)] for ranking in rankings]
    return rankings, chosen, [set(chance.sample(CATALOGUE, chance.randint(1, 6))) for _ in range(40)]


def point(statistic: Statistic, documents: int) -> float:
    return float(statistic(np.ones((1, documents)))[0])


@pytest.mark.parametrize("seed", range(3))
def test_ranking_metrics_are_those_of_ir_measures(seed: int):
    rankings, _, gold = random_run(seed)
    run = {str(n): {label: float(-rank) for rank, label in enumerate(ranking)} for n, ranking in enumerate(rankings)}
    right = {str(n): dict.fromkeys(labels, 1) for n, labels in enumerate(gold)}
    for name, metric in (("P", precision), ("R", recall), ("nDCG", ndcg)):
        for k in (1, 3, 5, 10):
            measure = ir_measures.parse_measure(f"{name}@{k}")
            theirs = {one.query_id: one.value for one in ir_measures.iter_calc([measure], right, run)}
            ours = {str(n): metric(ranking, gold[n], k) for n, ranking in enumerate(rankings)}
            assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_that_of_scikit_learn(seed: int):
    _, chosen, gold = random_run(seed)
    known = sorted(set().union(*chosen, *gold))  # macro F1 is over these
    matrix = MultiLabelBinarizer(classes=known).fit([known])
    right, predicted = matrix.transform(gold), matrix.transform(chosen)
    pairs = [(2 * len(set(c) & g), len(c) + len(g)) for c, g in zip(chosen, gold, strict=True)]
    ours = {
        "samples": point(mean_of([f1(c, g) for c, g in zip(chosen, gold, strict=True)]), 40),
        "micro": point(ratio_of(pairs), 40),
        "macro": point(macro_f1(chosen, gold), 40),
    }
    theirs = {average: f1_score(right, predicted, average=average, zero_division=0) for average in ours}
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_propensity_scored_precision_is_that_of_pyxclib():
    """The numbers are what pyxclib's psprecision and compute_inv_propesity give for this run; on PyPI it is not."""
    rng = np.random.default_rng(5)
    right = rng.random((6, 8)) < 0.35
    right[~right.any(axis=1), 0] = True
    scores = rng.random((6, 8)).round(3)
    counts = (rng.random((50, 8)) < rng.random(8)).sum(axis=0)
    weights = {str(label): inverse_propensity(int(count), 50) for label, count in enumerate(counts)}
    assert weights["0"] == pytest.approx(2.067528239773237, abs=1e-12)
    rankings = [[str(label) for label in np.argsort(-row)] for row in scores]
    gold = [{str(label) for label in np.flatnonzero(row)} for row in right]
    theirs = (0.1483654322818139, 0.3225600895581803, 0.2885480856038632, 0.487524212855615, 0.5543213506071439)
    for k, expected in enumerate(theirs, start=1):
        pairs = [propensity_scored(r, g, k, weights.__getitem__) for r, g in zip(rankings, gold, strict=True)]
        assert point(ratio_of(pairs), 6) == pytest.approx(expected, abs=1e-12)


def test_a_rare_label_weighs_more_and_all_right_scores_one():
    assert inverse_propensity(1, 1000) > inverse_propensity(100, 1000) > 1
    # (ln 1000 - 1) 2.5^0.55 / 2.5^0.55 + 1: a label of one document, worked by hand
    assert inverse_propensity(1, 1000) == pytest.approx(math.log(1000))
    assert propensity_scored(["a", "b"], {"a", "b"}, 2, {"a": 2.0, "b": 3.0}.__getitem__) == (5.0, 5.0)
    assert propensity_scored(["x", "a"], {"a", "b"}, 2, {"a": 2.0, "b": 3.0}.__getitem__) == (2.0, 5.0)


def test_coverage_is_of_labels_not_of_documents():
    found, gold = [["a", "x"], ["a"], ["b"]], [{"a"}, {"a", "c"}, {"d"}]
    assert point(coverage(found, gold), 3) == 1 / 3  # of a, c and d; b is wrong where it was found


def test_an_interval_of_a_ratio_resamples_documents():
    pairs = [(0.0, 1.0), (10.0, 10.0)] * 10
    whole = bootstrap(ratio_of(pairs), 20)
    assert whole.mean == pytest.approx(100 / 110)
    assert whole.low < whole.mean < whole.high
    assert bootstrap(ratio_of([(1.0, 2.0)] * 5), 5) == (0.5, 0.5, 0.5)


def test_a_share_that_every_resample_holds_lower_is_centred_and_stays_below_one():
    gold = [{str(n)} for n in range(40)] + [{"a"}] * 40
    found = coverage([set(), *gold[1:]], gold)
    low = bootstrap(coverage(gold[:40], [{*one, "a"} for one in gold[:40]]), 40)
    assert low.high < low.mean, "a resample of documents lacks labels that are found"
    centred = bootstrap(coverage(gold[:40], [{*one, "a"} for one in gold[:40]]), 40, centred=True)
    assert centred.low < centred.mean < centred.high
    assert bootstrap(found, 80, centred=True).high <= 1


def test_a_difference_is_over_the_same_draws():
    better, worse = mean_of([0.3, 0.9, 0.5]), mean_of([0.1, 0.7, 0.3])
    assert bootstrap(better, 3, less=worse) == pytest.approx((0.2, 0.2, 0.2))


def test_sets_of_no_labels_score_nothing_and_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert point(macro_f1([[], []], [{"a"}, {"b"}]), 2) == 0
        assert point(coverage([[], []], [{"a"}, {"b"}]), 2) == 0
        assert bootstrap(macro_f1([["a"], []], [{"a"}, {"b"}]), 2).mean == 0.5
