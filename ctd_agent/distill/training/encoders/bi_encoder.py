"""A bi-encoder for either phase: documents are near to their labels, to find them or to choose among them.

To shortlist, its vectors go into the label index; to select, its cosines rank and cut the shortlist.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctd_agent.agents.encoders import odds_of
from ctd_agent.agents.student import Student, Target
from ctd_agent.distill.examples import Judgement, Nearness
from ctd_agent.distill.training.course import Course
from ctd_agent.distill.training.fitting import READ, fit
from ctd_agent.distill.training.threshold import Scores, fitted
from ctd_agent.errors import UserError
from ctd_agent.schema import Label

if TYPE_CHECKING:
    from datasets import Dataset

RATE = 5e-5
TEMPERATURE = 20.0  # of the cosines under the softmax, as sentence-transformers' own losses have it
OTHERS = 500  # labels that nothing in the corpus is about, among which the dev documents' own are to be found

Texts = Mapping[str, str]  # of labels, by id


@dataclass(frozen=True)
class Near:
    """One step's worth of nearness: a document, a label that is near, one that is not; `also` are near, too."""

    document: str
    near: str
    far: str
    also: frozenset[str]


def train_bi_encoder(
    course: Course, target: Target, judgements: Mapping[str, Sequence[Judgement]], labels: Sequence[Label]
) -> Student:
    """Train a bi-encoder: document near to its right labels, away from the shortlist's others and each other's.

    For `select` right is what was chosen, and labels are read as a selector is shown them; else they are the
    catalogue's, in `labels`.
    Raises UserError for labels that are not in the catalogue, or a corpus that brings nothing near to anything.
    """
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    texts = _shown(judgements) if target == "select" else {label.id: label.text for label in labels}
    known = {
        split: [(one, near) for one in some if (near := _nearness(one, target))] for split, some in judgements.items()
    }
    rows = {split: _rows(some, texts, course.plan.seed) for split, some in known.items()}
    if not rows["train"]:
        raise UserError(
            f"{course.corpus}: no document in it has a label to learn for {target}; label more, or lower its gates"
        )
    model = SentenceTransformer(str(course.start or course.base))
    model.max_seq_length = course.plan.max_length or READ
    both = [row for split in rows.values() for row in split]
    fit(
        course,
        (SentenceTransformerTrainer, Arguments),
        model,
        _loss(model, both, texts),
        {split: _data(both, some, texts) for split, some in rows.items()},
        _reranking(known["dev"], texts) if target == "select" else _retrieval(known["dev"], texts, course.plan.seed),
        best="dev_ndcg@10" if target == "select" else "dev_cosine_ndcg@10",
        rate=RATE,
    )
    judged = [(_scores(model, one, near, texts, target), {*near.near}) for one, near in known["dev"]]
    return course.student("bi-encoder", target, threshold=fitted(judged))


def _nearness(one: Judgement, target: Target) -> Nearness | None:
    if target == "select":
        chosen: dict[bool, list[str]] = {True: [], False: []}
        for pair in one.select or []:
            chosen[bool(pair.target)].append(pair.label)
        return Nearness(near=chosen[True], far=chosen[False]) if one.select else None
    return one.standard if target == "standard" else one.shortlist


def _shown(judgements: Mapping[str, Sequence[Judgement]]) -> Texts:
    return {pair.label: pair.text for some in judgements.values() for one in some for pair in one.select or []}


def _rows(known: Sequence[tuple[Judgement, Nearness]], texts: Texts, seed: int) -> list[Near]:
    rng, rows = random.Random(seed), []  # noqa: S311 - picks examples, no secret
    for one, nearness in known:
        for label in nearness.near:
            if unknown := {label, *nearness.far} - texts.keys():
                raise UserError(
                    f"label {min(unknown)!r} of the corpus is not in the catalogue; give the one that the teacher had"
                )
            far = rng.choice(nearness.far or [*texts])
            rows.append(Near(one.text, label, far, frozenset(nearness.near)))
    return rows


def _data(known: Sequence[Near], rows: Sequence[Near], texts: Texts) -> "Dataset":
    from datasets import Dataset

    place = {id(row): at for at, row in enumerate(known)}
    columns = {
        "document": [row.document for row in rows],
        "near": [texts[row.near] for row in rows],
        "far": [texts[row.far] for row in rows],
        "label": [place[id(row)] for row in rows],
    }
    return Dataset.from_dict(columns)


def _loss(model: Any, rows: Sequence[Near], texts: Texts) -> Any:
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


def _retrieval(dev: Sequence[tuple[Judgement, Nearness]], texts: Texts, seed: int) -> Any:
    """Return what measures how well the dev documents find their labels among others, None where there are none."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    wanted = {one.id: {*near.near} for one, near in dev if near.near}
    hard = {key for _, near in dev for key in (*near.near, *near.far)}
    others = random.Random(seed).sample(sorted(texts), min(OTHERS, len(texts)))  # noqa: S311 - draws labels
    queries = {one.id: one.text for one, _ in dev if one.id in wanted}
    if not queries:
        return None
    return InformationRetrievalEvaluator(
        queries, {key: texts[key] for key in {*hard, *others}}, wanted, name="dev", show_progress_bar=False
    )


def _reranking(dev: Sequence[tuple[Judgement, Nearness]], texts: Texts) -> Any:
    """Return what measures how well the dev documents' shortlists are ranked, None where there is nothing to rank."""
    from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator

    samples: list[dict[str, str | list[str]]] = [
        {"query": one.text, "positive": [texts[key] for key in near.near], "negative": [texts[key] for key in near.far]}
        for one, near in dev
        if near.near and near.far
    ]
    return RerankingEvaluator(samples, name="dev") if samples else None


def _scores(model: Any, one: Judgement, near: Nearness, texts: Texts, target: Target) -> Scores:
    keys = [*near.near, *near.far]
    document, *vectors = model.encode([one.text, *(texts[key] for key in keys)], normalize_embeddings=True)
    odds = {key: odds_of(float(document @ vector)) for key, vector in zip(keys, vectors, strict=True)}
    ranks = {key: rank for rank, key in enumerate(sorted(odds, key=lambda key: -odds[key]), start=1)}
    if target == "select":
        ranks = {pair.label: pair.rank for pair in one.select or []}
    return {key: (odds[key], ranks[key]) for key in keys}
