"""A cross-encoder that selects: it reads a document and a candidate together. Its base is a cross-encoder.

A bi-encoder's weights make a poor start: after 150 steps on a hundred documents it told no candidate from another
(docs/distillation.md).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ctd_agent.agents.engines.student import Student
from ctd_agent.distill.corpus.conversations import Judgement
from ctd_agent.distill.training.encoders.encoder_trainer import READ, fit
from ctd_agent.distill.training.encoders.threshold import fitted
from ctd_agent.distill.training.plan import Training
from ctd_agent.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

RATE = 1e-4


def train_cross_encoder(training: Training, judgements: Mapping[str, Sequence[Judgement]]) -> Student:
    """Train a cross-encoder on the teacher's choices, a document with one candidate at a time.

    Raises UserError for a corpus without any choice.
    """
    from sentence_transformers import CrossEncoder, CrossEncoderTrainer
    from sentence_transformers import CrossEncoderTrainingArguments as Arguments
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderClassificationEvaluator
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from torch.nn import Identity

    data = {split: _pairs(examples) for split, examples in judgements.items()}
    if not sum(data["train"]["label"]):
        raise UserError(f"{training.corpus}: it has no choice to learn from; make it again with a lower --min-f1")
    model = CrossEncoder(training.base, num_labels=1, max_length=training.plan.max_length or READ)
    dev = data["dev"]
    both = list(zip(dev["text"], dev["candidate"], strict=True)), list(map(int, dev["label"]))
    evaluator = CrossEncoderClassificationEvaluator(*both, name="dev") if len({*both[1]}) == 2 else None
    loss, best = BinaryCrossEntropyLoss(model), "dev_average_precision"
    fit(training, (CrossEncoderTrainer, Arguments), model, loss, data, evaluator, best=best, rate=RATE)
    scored = []
    for example in judgements["dev"]:
        pairs = example.select or []
        odds = model.predict([(example.text, p.text) for p in pairs], activation_fn=Identity()) if pairs else []
        ranked = {pair.label: (float(value), pair.rank) for pair, value in zip(pairs, odds, strict=True)}
        scored.append((ranked, {pair.label for pair in pairs if pair.target}))
    return training.student("cross-encoder", "select", threshold=fitted(scored))


def _pairs(judgements: Sequence[Judgement]) -> "Dataset":
    from datasets import Dataset

    pairs = [(example.text, pair) for example in judgements for pair in example.select or ()]
    columns = {
        "text": [text for text, _ in pairs],
        "candidate": [pair.text for _, pair in pairs],
        "label": [float(pair.target) for _, pair in pairs],
    }
    return Dataset.from_dict(columns)
