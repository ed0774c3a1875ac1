"""The ways to explain a classification: a map per image, larger where the image mattered more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from regard.errors import OptionError, ShapeError, UnsupportedError
from regard.explain.features import cam_targets, features_of, last_layer
from regard.explain.maps import AttentionMap
from regard.explain.record import record, recorded, require_calls
from regard.explain.rollout import additive_step, follow, residual_step
from regard.explain.tokens import Tokens, resize
from regard.explain.weight_gradients import output_of, weight_gradient

Target = int | Sequence[int] | None
"""The class to explain: one for all images, one per image, or None for the predicted ones."""


def attention_rollout(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    """Follow the attention of all layers from the classifier down to the first layer's tokens.

    It shows what can have reached the output, and is the same for every class.

    Source:
        Abnar and Zuidema (arXiv 2005.00928), with sparse products, and areas where the grid shrinks.
    """
    with torch.no_grad():
        calls = recorded(model, images)
    return follow([call.map() for call in calls], _size(images), residual_step).image()


def attention_gradient(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    """Multiply the weights with their gradients, keep what is positive, and follow that down to the first layer.

    What tokens keep of themselves through all layers is left out: it is the same for every image.

    Source:
        Chefer, Gur and Wolf, Generic Attention-model Explainability (arXiv 2103.15679, eq. 5 and 6).
    """
    maps, gradients = _maps_with_gradients(model, images, target)
    positive = [
        one.with_weights((one.weights * gradient.weights).clamp_min(0).mean(1, keepdim=True))
        for one, gradient in zip(maps, gradients, strict=True)
    ]
    _, added = follow(positive, _size(images), additive_step, parts=2).image().chunk(2)
    return added


def attention_sensitivity(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    """Add up, over all layers, heads and queries, the positive gradients of the weights on every token.

    Source:
        After LeGrad (arXiv 2404.03214, eq. 7 to 9), which takes the gradient of a score of every layer; here it is the
        gradient of the model's score, since a pyramid's classifier fits its last layer only.
    """
    size = _size(images)
    maps, gradients = _maps_with_gradients(model, images, target)
    grids = [Tokens.of(one.key_grid, size) for one in maps]
    finest = max((tokens.grid for tokens in grids), key=lambda grid: grid[0] * grid[1])
    total = torch.zeros(len(images), *finest, dtype=images.dtype, device=images.device)
    for gradient, tokens in zip(gradients, grids, strict=True):
        queries = gradient.weights.shape[2]
        positive = gradient.with_weights(gradient.weights.clamp_min(0))
        seen = positive.pull(gradient.weights.new_full((len(images), queries), 1 / queries))
        layer = resize(tokens.on_grid(seen), finest)
        total += layer / layer.amax((1, 2), keepdim=True).clamp_min(torch.finfo(layer.dtype).tiny)
    return total


def grad_cam(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    """Weigh the channels of the last features by their mean gradient, and keep what is positive.

    Source:
        Selvaraju et al., Grad-CAM (arXiv 1610.02391, eq. 1 and 2).
    """
    with torch.enable_grad(), features_of(model, cam_targets(model)[0], _size(images)) as kept:
        score = _score(model(_differentiable(images)), target)
        features = kept[-1]
        (gradient,) = torch.autograd.grad(score, features.raw)
    channels = features.as_images(gradient).mean((2, 3), keepdim=True)
    return (features.as_images(features.raw.detach()) * channels).sum(1).clamp_min(0)


def input_gradient(model: nn.Module, images: Tensor, target: Target = None) -> Tensor:
    """Multiply every pixel with its gradient, and add up the sizes over the channels."""
    images = _differentiable(images)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(_score(model(images), target), images)
    return (images * gradient).sum(1).abs().detach()


METHODS: Mapping[str, Callable[[nn.Module, Tensor, Target], Tensor]] = {
    "rollout": attention_rollout,
    "attention-gradient": attention_gradient,
    "sensitivity": attention_sensitivity,
    "grad-cam": grad_cam,
    "input-gradient": input_gradient,
}
"""The methods by name."""


def explain(model: nn.Module, images: Tensor, method: str = "attention-gradient", target: Target = None) -> Tensor:
    """Return how much every part of the images mattered to the classification.

    Args:
        model: in evaluation mode: a model of regard, or any that went through `regard.surgery.adapt`.
        images: `[B, C, H, W]`, preprocessed as the model expects.
        method: one of `METHODS`.
        target: the class, one class per image, or None for those that the model predicts.

    Returns:
        `[B, h, w]`, on the grid of the method's tokens; `resize` brings it to the image's size.

    Raises:
        OptionError: an unknown method, or a class that the model does not have.
        UnsupportedError: the model has no attention of regard, or is in training mode.

    Cost:
        A forward pass for "rollout", a forward and a backward pass for the others; and, for those that follow weights,
        time and memory linear in the number of weights.

    Example:
        >>> import regard
        >>> model = regard.create_model("nat_nano").eval()
        >>> explain(model, torch.randn(2, 3, 32, 32), "rollout").shape
        torch.Size([2, 32, 32])
    """
    if method not in METHODS:
        raise OptionError.unknown("method", method, METHODS)
    _check(model, images)
    return METHODS[method](model, images, target)


def receptive_field(model: nn.Module, images: Tensor, point: tuple[float, float] | None = None) -> Tensor:
    """Return how strongly every pixel changes the features at a point: the effective receptive field, `[B, H, W]`.

    Args:
        model: as in `explain`.
        images: `[B, C, H, W]`.
        point: x and y in pixels; None is the center.

    Source:
        Luo et al., Understanding the Effective Receptive Field (arXiv 1701.04128, section 2).
    """
    _check(model, images)
    size = _size(images)
    images = _differentiable(images)
    with torch.enable_grad(), features_of(model, last_layer(model), size) as kept:
        model(images)
        features = kept[-1].as_images(kept[-1].raw)
        x, y = (size[1] / 2, size[0] / 2) if point is None else point
        place = Tokens(0, (features.shape[2], features.shape[3])).at(x, y, size)
        (gradient,) = torch.autograd.grad(features.flatten(2)[:, :, place].sum(), images)
    return gradient.abs().sum(1).detach()


def _maps_with_gradients(
    model: nn.Module, images: Tensor, target: Target
) -> tuple[list[AttentionMap], list[AttentionMap]]:
    with torch.enable_grad():
        with record(model) as calls:
            logits = model(_differentiable(images))
        require_calls(model, calls)
        gradients = torch.autograd.grad(_score(logits, target), [output_of(call) for call in calls])
    with torch.no_grad():
        maps = [call.map() for call in calls]
        return maps, [weight_gradient(*one) for one in zip(calls, maps, gradients, strict=True)]


def _score(logits: object, target: Target) -> Tensor:
    """Return the sum of the logits of the classes to explain."""
    if not isinstance(logits, Tensor):
        logits = getattr(logits, "logits", logits)  # the output class of transformers
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UnsupportedError(f"expected a model that returns logits [B, classes], got {type(logits).__name__}")
    classes = logits.shape[1]
    if target is None:
        chosen = logits.argmax(1)
    else:
        chosen = torch.as_tensor(target, device=logits.device).expand(len(logits))
        if not bool(((chosen >= 0) & (chosen < classes)).all()):
            raise OptionError(
                f"target must name one of the model's {classes} classes, 0 to {classes - 1}, got {target}"
            )
    return logits.gather(1, chosen.unsqueeze(1)).sum()


def _check(model: nn.Module, images: Tensor) -> None:
    if images.ndim != 4:
        raise ShapeError(f"images must be [B, C, H, W], got {list(images.shape)}")
    if model.training:
        raise UnsupportedError("expected a model in evaluation mode; call model.eval()")


def _differentiable(images: Tensor) -> Tensor:
    """Return images that gradients reach even if no parameter needs one."""
    return images.detach().clone().requires_grad_()


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]
