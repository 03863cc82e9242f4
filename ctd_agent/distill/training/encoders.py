"""Encoder students: a bi-encoder that shortlists, a cross-encoder that selects. Tens of millions of parameters.

Trained by sentence-transformers, from any of its models.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctd_agent.agents.encoders import odds_of
from ctd_agent.agents.selector import score_at
from ctd_agent.agents.student import Student, Target
from ctd_agent.distill.examples import Judgement, Nearness
from ctd_agent.distill.metrics import f1
from ctd_agent.distill.training.course import Course
from ctd_agent.distill.training.fitting import fit
from ctd_agent.errors import UserError
from ctd_agent.schema import Label

if TYPE_CHECKING:
    from datasets import Dataset

BI_RATE, CROSS_RATE = 5e-5, 1e-4
READ = 128  # tokens of a text that an encoder reads
TEMPERATURE = 20.0  # of the cosines under the softmax, as sentence-transformers' own losses have it
LEVELS = 100  # of the threshold that are tried
OTHERS = 500  # labels that nothing in the corpus is about, among which the dev documents' own are to be found


@dataclass(frozen=True)
class Near:
    """One step's worth of nearness: a document, a label that is near, one that is not; `also` are near, too."""

    document: str
    near: str
    far: str
    also: frozenset[str]


def train_shortlister(
    course: Course, judgements: Mapping[str, Sequence[Judgement]], labels: Sequence[Label]
) -> Student:
    """Train a bi-encoder: document near to its credited labels, away from the shortlist's others and each other's.

    Raises UserError for labels that are not in the catalogue, or a corpus that brings nothing near to anything.
    """
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    texts = {label.id: label.text for label in labels}
    corpus: Target = "standard" if course.plan.target == "standard" else "shortlist"
    rows = {split: _near(some, corpus, texts, course.plan.seed) for split, some in judgements.items()}
    if not rows["train"]:
        raise UserError(f"{course.corpus}: no document in it is near to any label; there is nothing to train on")
    model = SentenceTransformer(course.base)
    model.max_seq_length = course.plan.max_length or READ
    known = [row for split in rows.values() for row in split]
    fit(
        course,
        (SentenceTransformerTrainer, Arguments),
        model,
        _loss(model, known, texts),
        {split: _nearness_data(known, some, texts) for split, some in rows.items()},
        _retrieval(judgements["dev"], corpus, texts, course.plan.seed),
        best="dev_cosine_ndcg@10",
        rate=BI_RATE,
    )
    dev = [(one, near) for one in judgements["dev"] if (near := getattr(one, corpus))]
    judged = [(_cosines(model, one.text, near, texts), {*near.near}) for one, near in dev]
    return course.student("bi-encoder", corpus, threshold=fitted(judged))


def train_selector(course: Course, judgements: Mapping[str, Sequence[Judgement]]) -> Student:
    """Train a cross-encoder on the teacher's choices, a document with one candidate at a time.

    Raises UserError for a corpus without any choice.
    """
    from sentence_transformers import CrossEncoder, CrossEncoderTrainer
    from sentence_transformers import CrossEncoderTrainingArguments as Arguments
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderClassificationEvaluator
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from torch.nn import Identity

    data = {split: _pairs_data(some) for split, some in judgements.items()}
    if not sum(data["train"]["label"]):
        raise UserError(f"{course.corpus}: no choice in it to learn from; lower --min-f1 when you make it")
    model = CrossEncoder(course.base, num_labels=1, max_length=course.plan.max_length or READ)
    dev = data["dev"]
    evaluator = CrossEncoderClassificationEvaluator(
        list(zip(dev["text"], dev["candidate"], strict=True)), [int(one) for one in dev["label"]], name="dev"
    )
    loss = BinaryCrossEntropyLoss(model)
    best = "dev_average_precision"
    fit(course, (CrossEncoderTrainer, Arguments), model, loss, data, evaluator, best=best, rate=CROSS_RATE)
    judged = []
    for one in judgements["dev"]:
        pairs = one.select or []
        odds = model.predict([(one.text, p.text) for p in pairs], activation_fn=Identity()) if pairs else []
        ranked = {pair.label: (float(value), pair.rank) for pair, value in zip(pairs, odds, strict=True)}
        judged.append((ranked, {pair.label for pair in pairs if pair.target}))
    return course.student("cross-encoder", "select", threshold=fitted(judged))


Scores = dict[str, tuple[float, int]]  # log-odds and rank, by label


def fitted(judged: Sequence[tuple[Scores, set[str]]]) -> float:
    """Return the threshold that chooses best on held-out documents, by mean F1; one half where there are none.

    `judged` has the scores of a document's candidates, and its right ones.
    """
    scored = [({key: score_at(*one) for key, one in scores.items()}, right) for scores, right in judged if right]
    levels = sorted({round(score, 3) for scores, _ in scored for score in scores.values()})

    def reached(threshold: float) -> float:
        return sum(f1([key for key, score in scores.items() if score > threshold], right) for scores, right in scored)

    return max(levels[:: max(1, len(levels) // LEVELS)], key=reached, default=0.5)


def _near(judgements: Sequence[Judgement], corpus: str, texts: Mapping[str, str], seed: int) -> list[Near]:
    rng, rows = random.Random(seed), []  # noqa: S311 - no secret
    for one in judgements:
        nearness: Nearness | None = getattr(one, corpus)
        for label in nearness.near if nearness else []:
            if unknown := {label, *(nearness.far if nearness else [])} - texts.keys():
                raise UserError(
                    f"label {min(unknown)!r} of the corpus is not in the catalogue; give the one that the teacher had"
                )
            far = rng.choice(nearness.far) if nearness and nearness.far else rng.choice([*texts])
            rows.append(Near(one.text, label, far, frozenset(nearness.near if nearness else [])))
    return rows


def _nearness_data(known: Sequence[Near], rows: Sequence[Near], texts: Mapping[str, str]) -> "Dataset":
    from datasets import Dataset

    place = {id(row): at for at, row in enumerate(known)}
    columns = {
        "document": [row.document for row in rows],
        "near": [texts[row.near] for row in rows],
        "far": [texts[row.far] for row in rows],
        "label": [place[id(row)] for row in rows],
    }
    return Dataset.from_dict(columns)


def _pairs_data(judgements: Sequence[Judgement]) -> "Dataset":
    from datasets import Dataset

    pairs = [(one.text, pair) for one in judgements for pair in one.select or ()]
    columns = {
        "text": [text for text, _ in pairs],
        "candidate": [pair.text for _, pair in pairs],
        "label": [float(pair.target) for _, pair in pairs],
    }
    return Dataset.from_dict(columns)


def _loss(model: Any, rows: Sequence[Near], texts: Mapping[str, str]) -> Any:
    """Return the softmax over a batch's labels, in which a document's other right labels are no negatives.

    With a few hundred labels two documents of a batch share some more often than not.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    class InBatch(torch.nn.Module):  # type: ignore[misc] # torch is untyped where it is not installed
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, sentence_features: Any, labels: Any) -> Any:
            document, near, far = (normalize(self.model(one)["sentence_embedding"]) for one in sentence_features)
            batch = [rows[at] for at in labels.tolist()]
            there = [row.near for row in batch] + [row.far for row in batch]
            similar = TEMPERATURE * document @ torch.cat([near, far]).T
            right = [[key in row.also and at != own for own, key in enumerate(there)] for at, row in enumerate(batch)]
            similar = similar.masked_fill(torch.tensor(right, device=similar.device), float("-inf"))
            return cross_entropy(similar, torch.arange(len(batch), device=similar.device))

    return InBatch()


def _retrieval(judgements: Sequence[Judgement], corpus: str, texts: Mapping[str, str], seed: int) -> Any:
    """Return what measures how well the dev documents find their labels among others."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    wanted = {one.id: {*near.near} for one in judgements if (near := getattr(one, corpus)) and near.near}
    hard = {key for one in judgements if (near := getattr(one, corpus)) for key in (*near.near, *near.far)}
    others = random.Random(seed).sample(sorted(texts), min(OTHERS, len(texts)))  # noqa: S311 - no secret
    queries = {one.id: one.text for one in judgements if one.id in wanted}
    return InformationRetrievalEvaluator(
        queries, {key: texts[key] for key in {*hard, *others}}, wanted, name="dev", show_progress_bar=False
    )


def _cosines(model: Any, text: str, near: Nearness, texts: Mapping[str, str]) -> Scores:
    keys = [*near.near, *near.far]
    document, *vectors = model.encode([text, *(texts[key] for key in keys)], normalize_embeddings=True)
    odds = {key: odds_of(float(document @ vector)) for key, vector in zip(keys, vectors, strict=True)}
    best = sorted(odds, key=lambda key: -odds[key])
    return {key: (odds[key], rank) for rank, key in enumerate(best, start=1)}
