"""A bi-encoder for either phase: documents are near to their labels, to find them or to choose among them.

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
TEMPERATURE = 20.0  # of the cosines under the softmax, as sentence-transformers' own losses have it
OTHERS = 500  # labels that nothing in the corpus is about, among which the dev documents' own are to be found

Texts = Mapping[str, str]  # of labels, by id


@dataclass(frozen=True)
class Near:
    """One training row: a document, a label that is near and one that is far. `also` holds all that are near."""

    document: str
    near: str
    far: str
    also: frozenset[str]


def train_bi_encoder(
    training: Training, target: Target, judgements: Mapping[str, Sequence[Judgement]], labels: Sequence[Label]
) -> Student:
    """Train a bi-encoder: document near to its right labels, away from the shortlist's others and each other's.

    For `select` the chosen labels are right, with the texts that a selector is shown. Else texts are those of `labels`,
    the catalogue.
    Raises UserError for labels that are not in the catalogue, or a corpus that brings nothing near to anything.
    """
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    texts = _shown(judgements) if target == "select" else {label.id: label.text for label in labels}
    known = {
        split: [(judged, near) for judged in part if (near := _nearness(judged, target))]
        for split, part in judgements.items()
    }
    rows = {split: _rows(part, texts, training.plan.seed) for split, part in known.items()}
    if not rows["train"]:
        raise UserError(
            f"{training.corpus}: no document in it has a label to learn for {target}; label more, or lower its gates"
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
    scored = [(_scores(model, judged, near, texts, target), {*near.near}) for judged, near in known["dev"]]
    return training.student("bi-encoder", target, threshold=fitted(scored))


def _nearness(judged: Judgement, target: Target) -> Nearness | None:
    if target == "select":
        chosen: dict[bool, list[str]] = {True: [], False: []}
        for pair in judged.select or []:
            chosen[bool(pair.target)].append(pair.label)
        return Nearness(near=chosen[True], far=chosen[False]) if judged.select else None
    return judged.standard if target == "standard" else judged.shortlist


def _shown(judgements: Mapping[str, Sequence[Judgement]]) -> Texts:
    return {pair.label: pair.text for part in judgements.values() for judged in part for pair in judged.select or []}


def _rows(known: Sequence[tuple[Judgement, Nearness]], texts: Texts, seed: int) -> list[Near]:
    rng, rows = random.Random(seed), []  # noqa: S311 - picks examples, no secret
    for judged, nearness in known:
        for label in nearness.near:
            if unknown := {label, *nearness.far} - texts.keys():
                raise UserError(
                    f"label {min(unknown)!r} of the corpus is not in the catalogue; give the one that the teacher had"
                )
            far = rng.choice(nearness.far or [*texts])
            rows.append(Near(judged.text, label, far, frozenset(nearness.near)))
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
            document, near, far = (normalize(self.model(texts)["sentence_embedding"]) for texts in sentence_features)
            batch = [rows[at] for at in labels.tolist()]
            there = [row.near for row in batch] + [row.far for row in batch]
            similar = TEMPERATURE * document @ torch.cat([near, far]).T
            right = [[key in row.also and at != own for own, key in enumerate(there)] for at, row in enumerate(batch)]
            similar = similar.masked_fill(torch.tensor(right, device=similar.device), float("-inf"))
            return cross_entropy(similar, torch.arange(len(batch), device=similar.device))

    return InBatch()


def _retrieval(dev: Sequence[tuple[Judgement, Nearness]], texts: Texts, seed: int) -> Any:
    """Return the evaluator of how well the dev documents find their labels among others, None without any."""
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    wanted = {judged.id: {*near.near} for judged, near in dev if near.near}
    hard = {key for _, near in dev for key in (*near.near, *near.far)}
    others = random.Random(seed).sample(sorted(texts), min(OTHERS, len(texts)))  # noqa: S311 - draws labels
    queries = {judged.id: judged.text for judged, _ in dev if judged.id in wanted}
    if not queries:
        return None
    return InformationRetrievalEvaluator(
        queries, {key: texts[key] for key in {*hard, *others}}, wanted, name="dev", show_progress_bar=False
    )


def _reranking(dev: Sequence[tuple[Judgement, Nearness]], texts: Texts) -> Any:
    """Return the evaluator of how well the dev documents' shortlists are ranked, None without any to rank."""
    from sentence_transformers.sentence_transformer.evaluation import RerankingEvaluator

    samples: list[dict[str, str | list[str]]] = [
        {
            "query": judged.text,
            "positive": [texts[key] for key in near.near],
            "negative": [texts[key] for key in near.far],
        }
        for judged, near in dev
        if near.near and near.far
    ]
    return RerankingEvaluator(samples, name="dev") if samples else None


def _scores(model: Any, judged: Judgement, near: Nearness, texts: Texts, target: Target) -> Scores:
    keys = [*near.near, *near.far]
    document, *vectors = model.encode([judged.text, *(texts[key] for key in keys)], normalize_embeddings=True)
    odds = {key: odds_of(float(document @ vector)) for key, vector in zip(keys, vectors, strict=True)}
    ranks = {key: rank for rank, key in enumerate(sorted(odds, key=lambda key: -odds[key]), start=1)}
    if target == "select":
        ranks = {pair.label: pair.rank for pair in judged.select or []}
    return {key: (odds[key], ranks[key]) for key in keys}
