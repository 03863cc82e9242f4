"""A bi-encoder for either phase: it learns to embed a document near its right labels.

To shortlist, its vectors go into the label index. To select, its cosines rank and cut the shortlist.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctd_agent.agents.engines.encoder import odds_of
from ctd_agent.agents.engines.student import Student, Target
from ctd_agent.distill.corpus.conversations import Judgement, Nearness
from ctd_agent.distill.training.encoders.encoder_trainer import READ, fit
from ctd_agent.distill.training.encoders.threshold import Scores, fitted
from ctd_agent.distill.training.plan import Training
from ctd_agent.errors import UserError
from ctd_agent.schema import Label

if TYPE_CHECKING:
    from datasets import Dataset

RATE = 5e-5
TEMPERATURE = 20.0  # the cosines' factor before the softmax, as in sentence-transformers' own losses
OTHERS = 500  # labels drawn from the catalogue, among which the dev documents' own are to be retrieved

Texts = Mapping[str, str]  # labels' texts, by id


@dataclass(frozen=True)
class Near:
    """A training row: a document, a near label and a far one. `also` holds all the document's near labels."""

    document: str
    near: str
    far: str
    also: frozenset[str]


def train_bi_encoder(
    training: Training, target: Target, judgements: Mapping[str, Sequence[Judgement]], labels: Sequence[Label]
) -> Student:
    """Train a bi-encoder: a document moves near its right labels, away from the rest of its shortlist and its batch.

    For `select` the chosen labels are right, with texts as a selector is shown them. Else `labels` has the texts.
    Raises UserError for labels that are not in the catalogue, and for a corpus without right labels.
    """
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    texts = _shown(judgements) if target == "select" else {label.id: label.text for label in labels}
    known = {
        split: [(example, near) for example in examples if (near := _nearness(example, target))]
        for split, examples in judgements.items()
    }
    rows = {split: _rows(part, texts, training.plan.seed) for split, part in known.items()}
    if not rows["train"]:
        raise UserError(
            f"{training.corpus}: no document has a label to learn for {target}; label more, or lower the gates"
        )
    model = SentenceTransformer(str(training.start or training.base))
    model.max_seq_length = training.plan.max_length or READ
    both = [row for split in rows.values() for row in split]
    fit(
        training,
        (SentenceTransformerTrainer, Arguments),
        model,
        _loss(model, both, texts),
        {split: _data(both, part, texts) for split, part in rows.items()},
        _reranking(known["dev"], texts) if target == "select" else _retrieval(known["dev"], texts, training.plan.seed),
        best="dev_ndcg@10" if target == "select" else "dev_cosine_ndcg@10",
        rate=RATE,
    )
    scored = [(_scores(model, example, near, texts, target), {*near.near}) for example, near in known["dev"]]
    return training.student("bi-encoder", target, threshold=fitted(scored))


def _nearness(example: Judgement, target: Target) -> Nearness | None:
    if target == "select":
        chosen: dict[bool, list[str]] = {True: [], False: []}
        for pair in example.select or []:
            chosen[bool(pair.target)].append(pair.label)
        return Nearness(near=chosen[True], far=chosen[False]) if example.select else None
    return example.standard if target == "standard" else example.shortlist


def _shown(judgements: Mapping[str, Sequence[Judgement]]) -> Texts:
    examples = (example for split in judgements.values() for example in split)
    return {pair.label: pair.text for example in examples for pair in example.select or []}


def _rows(known: Sequence[tuple[Judgement, Nearness]], texts: Texts, seed: int) -> list[Near]:
    rng, rows = random.Random(seed), []  # noqa: S311 - picks examples, no secret
    for example, nearness in known:
        for label in nearness.near:
            if unknown := {label, *nearness.far} - texts.keys():
                raise UserError(
                    f"label {min(unknown)!r} of the corpus is not in the catalogue; give the one that the teacher had"
                )
            far = rng.choice(nearness.far or [*texts])
            rows.append(Near(example.text, label, far, frozenset(nearness.near)))
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
    """Return the loss: a softmax over a batch's labels, where a document's other right labels are no negatives.

    With a few hundred labels two documents of a batch mostly share one.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    class InBatch(torch.nn.Module):  # type: ignore[misc] # torch is untyped where it is not installed
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, sentence_features: Any, labels: Any) -> Any:
            document, near, far = (normalize(self.model(side)["sentence_embedding"]) for side in sentence_features)
            batch = [rows[at] for at in labels.tolist()]
            there = [row.near for row in batch] + [row.far for row in batch]
            similar = TEMPERATURE * document @ torch.cat([near, far]).T
            right = [[key in row.also and at != own for own, key in enumerate(there)] for at, row in enumerate(batch)]
            similar = similar.masked_fill(torch.tensor(right, device=similar.device), float("-inf"))
            return cross_entropy(similar, torch.arange(len(batch), device=similar.device))

    return InBatch()


def _retrieval(dev: Sequence[tuple[Judgement, Nearness]], texts: Texts, seed: int) -> Any:
    """Return the evaluator of retrieval: the dev documents' labels among others. None without dev labels."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    wanted = {example.id: {*near.near} for example, near in dev if near.near}
    hard = {key for _, near in dev for key in (*near.near, *near.far)}
    others = random.Random(seed).sample(sorted(texts), min(OTHERS, len(texts)))  # noqa: S311 - draws labels
    queries = {example.id: example.text for example, _ in dev if example.id in wanted}
    if not queries:
        return None
    return InformationRetrievalEvaluator(
        queries, {key: texts[key] for key in {*hard, *others}}, wanted, name="dev", show_progress_bar=False
    )


def _reranking(dev: Sequence[tuple[Judgement, Nearness]], texts: Texts) -> Any:
    """Return the evaluator of the ranking of the dev documents' shortlists. None without any to rank."""
    from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator

    samples: list[dict[str, str | list[str]]] = [
        {"query": example.text, "positive": [texts[k] for k in near.near], "negative": [texts[k] for k in near.far]}
        for example, near in dev
        if near.near and near.far
    ]
    return RerankingEvaluator(samples, name="dev") if samples else None


def _scores(model: Any, example: Judgement, near: Nearness, texts: Texts, target: Target) -> Scores:
    keys = [*near.near, *near.far]
    document, *vectors = model.encode([example.text, *(texts[key] for key in keys)], normalize_embeddings=True)
    odds = {key: odds_of(float(document @ vector)) for key, vector in zip(keys, vectors, strict=True)}
    ranks = {key: rank for rank, key in enumerate(sorted(odds, key=lambda key: -odds[key]), start=1)}
    if target == "select":
        ranks = {pair.label: pair.rank for pair in example.select or []}
    return {key: (odds[key], ranks[key]) for key in keys}
