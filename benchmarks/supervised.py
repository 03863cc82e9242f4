"""A supervised reference for distillation: one linear model a label on TF-IDF, from gold labels, without a teacher.

    python benchmarks/supervised.py --train train.jsonl --test test.jsonl --documents 200 --sizes 100 1000 6842

The first documents of each file. Needs scikit-learn (extra `dev`). 95% intervals are bootstrapped over test documents.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from ctd_agent.distill.evaluation import RANKING
from ctd_agent.distill.metrics import bootstrap
from ctd_agent.files import read_documents, read_gold
from ctd_agent.schema import Document, Gold

METRICS = ("R@50", "P@1", "RP@5", "nDCG@5")


def main() -> None:
    """Print the reference at every size, as markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--documents", type=int, default=200, help="of the test")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100], help="numbers of training documents")
    options = parser.parse_args()
    train, gold = read_documents(options.train), read_gold(options.train)
    test, right = read_documents(options.test)[: options.documents], read_gold(options.test)
    print("| training documents | " + " | ".join(METRICS) + " |\n" + "|---" * (len(METRICS) + 1) + "|")
    for size in options.sizes:
        rankings = ranked(train[:size], gold, test)
        cells = []
        for name in METRICS:
            values = [RANKING[name](ranking, right[one.id].labels) for one, ranking in zip(test, rankings, strict=True)]
            mean, low, high = bootstrap(values)
            cells.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]")
        print(f"| {min(size, len(train)):,} | " + " | ".join(cells) + " |")


def ranked(train: Sequence[Document], gold: dict[str, Gold], test: Sequence[Document]) -> list[list[str]]:
    """Return the labels of every test document, likeliest first, of those that some training document has."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.preprocessing import MultiLabelBinarizer
    from sklearn.svm import LinearSVC

    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2))
    labels = MultiLabelBinarizer()
    texts = words.fit_transform([document.text for document in train])
    model = OneVsRestClassifier(LinearSVC()).fit(texts, labels.fit_transform([gold[one.id].labels for one in train]))
    scores = model.decision_function(words.transform([document.text for document in test]))
    return [[str(labels.classes_[at]) for at in order[:50]] for order in np.argsort(-scores, axis=1)]


if __name__ == "__main__":
    main()
