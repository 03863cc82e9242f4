"""Supervised references for distillation: what gold labels alone teach, without a teacher.

    python benchmarks/supervised.py --train train.jsonl --test test.jsonl --documents 200 --sizes 100 1000 6842

`linear` is one linear SVM a label on TF-IDF, `tree` napkinXC's probabilistic label tree on the same features
(Jasinska-Kobus et al. 2020, arXiv 2007.04451). The first documents of each file. Needs scikit-learn (extra `dev`)
and napkinxc (`pip install napkinxc`, built from source). 95% intervals are bootstrapped over test documents.
"""

import argparse
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctd_agent.distill.evaluation import RANKING
from ctd_agent.distill.metrics import bootstrap
from ctd_agent.files import read_documents, read_gold

METRICS = ("R@50", "P@1", "RP@5", "nDCG@5")
DEPTH = 50  # labels of a ranking


def main() -> None:
    """Print the references at every size, as markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--documents", type=int, default=200, help="of the test")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100], help="numbers of training documents")
    options = parser.parse_args()
    train, gold = read_documents(options.train), read_gold(options.train)
    test, right = read_documents(options.test)[: options.documents], read_gold(options.test)
    print("| training documents | | " + " | ".join(METRICS) + " |\n" + "|---" * (len(METRICS) + 2) + "|")
    for size in options.sizes:
        known = train[:size]
        texts, others = features([one.text for one in known], [one.text for one in test])
        for name, ranked in (("linear", linear), ("tree", tree)):
            rankings = ranked(texts, [gold[one.id].labels for one in known], others)
            cells = []
            for metric in METRICS:
                pairs = zip(test, rankings, strict=True)
                mean, low, high = bootstrap([RANKING[metric](got, right[one.id].labels) for one, got in pairs])
                cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
            print(f"| {len(known):,} | {name} | " + " | ".join(cells) + " |")


def features(known: Sequence[str], others: Sequence[str]) -> tuple[Any, Any]:
    """Return both sides' TF-IDF of words and pairs of words, as sparse rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    return words.fit_transform(known), words.transform(others)


def linear(known: Any, right: Sequence[frozenset[str]], others: Any) -> list[list[str]]:
    """Return the labels of every other document, likeliest first, of those that some known document has."""
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

    labels = sorted({label for some in right for label in some})
    number = {label: at for at, label in enumerate(labels)}
    with tempfile.TemporaryDirectory() as folder:
        model = PLT(folder, seed=0, threads=1)
        model.fit(known, [sorted(number[label] for label in some) for some in right])
        return [[labels[at] for at in found] for found in model.predict(others, top_k=DEPTH)]


if __name__ == "__main__":
    main()
