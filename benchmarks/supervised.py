"""Supervised references for distillation: what gold labels alone teach, without a teacher.

    python benchmarks/supervised.py --train train.jsonl --test test.jsonl --documents 200 --sizes 100 1000 6842

`linear` is one linear SVM a label on TF-IDF, `tree` napkinXC's probabilistic label tree on the same features
(Jasinska-Kobus et al. 2020, arXiv 2007.04451). The first documents of each file. Needs scikit-learn (extra `dev`)
and napkinxc (`pip install napkinxc`, built from source). 95% intervals are bootstrapped over test documents.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from script import command_line, interval, print_table, run

from ctd_agent.files import read_documents, read_gold
from ctd_agent.measure.evaluate import RANKING

METRICS = ("R@50", "P@1", "RP@5", "nDCG@5")
DEPTH = 50  # labels of a ranking


def main() -> None:
    """Print the references at every size, as markdown."""
    parser = command_line(__doc__)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--documents", type=int, default=200, help="of the test")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100], help="numbers of training documents")
    print_table(["training documents", "", *METRICS], references(parser.parse_args()), "rl")


def references(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield a row a size and classifier."""
    train, gold = read_documents(options.train), read_gold(options.train)
    test, right = read_documents(options.test)[: options.documents], read_gold(options.test)
    for size in options.sizes:
        known = train[:size]
        labels = [gold[document.id].labels for document in known]
        texts, tests = features([document.text for document in known], [document.text for document in test])
        for name, ranked in (("linear", linear), ("tree", tree)):
            pairs = [(ranking, right[document.id].labels) for document, ranking in
                     zip(test, ranked(texts, labels, tests), strict=True)]  # fmt: skip
            cells = [interval([RANKING[metric](*pair) for pair in pairs]) for metric in METRICS]
            yield [f"{len(known):,}", name, *cells]


def features(known: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
    """Return both sides' TF-IDF of words and pairs of words, as sparse rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    return words.fit_transform(known), words.transform(others)


def linear(known: Any, right: Sequence[frozenset[str]], others: Any) -> list[list[str]]:
    """Return the labels of every other document, likeliest first, of those that any known document has."""
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer
    from sklearn.svm import LinearSVC

    labels = MultiLabelBinarizer()
    model = OneVsRestClassifier(LinearSVC()).fit(known, labels.fit_transform(right))
    scores = model.decision_function(others)
    return [[str(labels.classes_[at]) for at in order[:DEPTH]] for order in np.argsort(-scores, axis=1)]


def tree(known: Any, right: Sequence[frozenset[str]], others: Any) -> list[list[str]]:
    """Return the same from a probabilistic label tree."""
    from napkinxc.models import PLT

    labels = sorted(frozenset().union(*right))
    number = {label: at for at, label in enumerate(labels)}
    with tempfile.TemporaryDirectory() as folder:
        model = PLT(folder, seed=0, threads=1)
        model.fit(known, [sorted(number[label] for label in row) for row in right])
        return [[labels[at] for at in ranking] for ranking in model.predict(others, top_k=DEPTH)]


if __name__ == "__main__":
    run(main)
