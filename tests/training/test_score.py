import pytest
import torch
from torch import nn
from torch.nn import functional as F

from budget import assert_within_budget, truth
from regard.training.score import Tally, tally

NAMES = tuple("abcdefg")


def draw():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 7, generator=generator), torch.randint(0, 7, (50,), generator=generator)


def score_of(logits, labels, sizes=(32, 18)):
    counted = Tally(logits.shape[1])
    for batch, targets in zip(logits.split(sizes), labels.split(sizes), strict=True):
        counted.add(batch, targets, F.cross_entropy(batch, targets))
    return counted.score(NAMES[: logits.shape[1]])


def test_against_counting_by_hand():
    logits, labels = draw()
    score = score_of(logits, labels)
    order = logits.argsort(dim=1, descending=True).tolist()
    right = [ranks[0] == label for ranks, label in zip(order, labels.tolist(), strict=True)]
    assert score.images == 50 and score.top1 == sum(right) / 50
    assert score.top5 == sum(label in ranks[:5] for ranks, label in zip(order, labels.tolist(), strict=True)) / 50
    for index, each in enumerate(score.classes):
        hits = [hit for hit, label in zip(right, labels.tolist(), strict=True) if label == index]
        assert (each.name, each.images, each.correct) == (NAMES[index], len(hits), sum(hits))
        assert each.accuracy == sum(hits) / len(hits)
    assert_within_budget(torch.tensor(score.loss), truth(mean_loss, logits, labels))


def mean_loss(logits, labels):
    return -F.log_softmax(logits, -1).gather(1, labels[:, None]).mean()


@pytest.mark.parametrize(("classes", "known"), [(5, False), (6, True)])
def test_top5_needs_more_than_five_classes(classes, known):
    logits, labels = draw()
    assert (score_of(logits[:, :classes], labels % classes).top5 is not None) is known


def test_tally_does_not_train_the_model():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    images, labels = torch.ones(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    counted = tally(model, [[images, labels]], 3)
    assert counted.loss == F.cross_entropy(model.eval()(images), labels).item() and model[2].weight.grad is None
