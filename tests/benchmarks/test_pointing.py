"""The canvases and the rule of the pointing game."""

import torch

import pointing


def test_boxes_are_pixels_in_row_major_order():
    assert pointing.boxes(torch.tensor([[1, 2]]), 2, 10).tolist() == [[12, 13, 22, 23]]


def test_clutter_is_as_bright_as_the_digit():
    images, labels, masks = pointing.Canvases("train").draw(64, torch.Generator().manual_seed(0))
    assert images.shape == (64, 3, 64, 64) and labels.shape == (64,)
    assert masks.flatten(1).sum(1).unique().tolist() == [pointing.SIDE**2]
    pixels = images[:, 0]
    inside, outside = pixels.where(masks, -1).amax((1, 2)), pixels.where(~masks, -1).amax((1, 2))
    assert inside.min() > 0.5 and outside.min() > 0.5


def test_splits_share_no_digit():
    folds = [fold for split in pointing.SPLITS.values() for fold in split]
    assert sorted(folds) == list(range(10))


def test_baselines_hit_by_chance_only():
    images, _, masks = pointing.Canvases("test").draw(500, torch.Generator().manual_seed(0))
    shares = {name: pointing.hits(map_of(images), masks).float().mean() for name, map_of in pointing.BASELINES.items()}
    assert shares["random"] < 0.2 and shares["center"] < 0.35 and shares["brightness"] < 0.35
    assert pointing.hits(masks.float(), masks).all()
