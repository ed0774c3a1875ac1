"""Keeping the replacements of a model that are faster, and undoing the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from regard.dense import Packed
from regard.surgery.adapter import Adapter, adapter_name
from regard.surgery.inference.fold import fold_layers
from regard.surgery.inference.plans import PLANS, Plan, packable
from regard.surgery.inspection import walk
from regard.surgery.judge import Judge
from regard.surgery.measure import Choice
from regard.surgery.replace import Replacer, describe
from regard.surgery.report import Folded, FuseReport, Left, Packing, Replaced
from regard.surgery.timing import Times

ORIGINAL = "original"
FUSED = "fused"


@dataclass
class Form:
    """A form of a model, and what the report says about it.

    Attributes:
        model: the model in this form.
        name: of the form.
        times: times of its modules that could run as before, by path.
        folded: layers that are now part of another layer.
        packings: layers that could be packed.
        difference: largest difference of the outputs from the original's; None if not compared.
        notes: further facts.
    """

    model: nn.Module
    name: str = FUSED
    times: dict[str, Times] = field(default_factory=dict)
    folded: tuple[Folded, ...] = ()
    packings: tuple[Packing, ...] = ()
    difference: float | None = None
    notes: tuple[str, ...] = ()

    def rows(self, replacer: Replacer) -> tuple[tuple[Replaced, ...], tuple[Left, ...]]:
        """List the modules of this form that were replaced, and those that are not faster."""
        modules = dict(self.model.named_modules())
        replaced, left = [], []
        for one in replacer.found:
            module, times = modules.get(one.path), self.times.get(one.path)
            if module is None or isinstance(module, Adapter):  # a part of a rebuilt block, or the module itself
                replaced.append(replacer.row(one, _nearest(modules, one.path), times))
            else:
                left.append(Left(one.path, one.name, _reason(times), times))
        return tuple(replaced), tuple(left)


Choosing = tuple[Form, Mapping[str, Times]]
"""The chosen form of a model, and the times of all its forms but the original, by name."""


def choose(replacer: Replacer, judge: Judge) -> Choosing:
    """Undo the replacements that are not faster, in place; all of them if the model as a whole is not."""
    form = Form(replacer.model)
    choices = [_choice(one.path, one.module, one.adapter) for one in replacer.found]
    form.times = judge.decide(form.model, choices)
    kept = [one for one in choices if isinstance(one.module, Adapter)]

    def switch(is_ours: bool) -> nn.Module:
        for one in kept:
            one.take(is_ours)
        return form.model

    trials: dict[str, Times] = {}
    if kept:
        best, trials = judge.pick({ORIGINAL: lambda: switch(False), FUSED: lambda: switch(True)})
        switch(best == FUSED)
        if best == ORIGINAL:
            form.name = ORIGINAL
            form.notes = ("all replacements were undone: the model as a whole is not faster",)
    form.difference = replacer.difference_of(form.model)
    return form, trials


def choose_folded(replacer: Replacer, judge: Judge) -> Choosing:
    """Fold and pack the layers of copies of the model in several ways, and keep the fastest copy.

    A copy whose outputs differ is dropped. If none is left, the result is a copy with the replacements only.
    """
    forms: dict[str, Form] = {}
    notes: dict[str, None] = {}  # in order, and once each
    for plan in PLANS:
        try:
            form = _fold(replacer, judge, plan)
            agrees = replacer.agrees(form.difference)
            problem = "" if agrees else f"outputs would differ by {form.difference:.1e} of the largest"
        except Exception as error:  # an unknown network combines known parts in an unexpected way
            problem = describe(error)
        if problem:
            notes[f"foldings were rolled back: {problem}"] = None
        else:
            forms[plan.name] = form
    if not forms:
        forms[FUSED] = Form(replacer.copy(), difference=replacer.difference)
    original = replacer.detach_all()
    best, trials = judge.pick({ORIGINAL: lambda: original, **{name: _model_of(form) for name, form in forms.items()}})
    if best == ORIGINAL:
        *_, tried = forms.values()
        chosen = Form(replacer.copy(), ORIGINAL, tried.times, difference=None if tried.difference is None else 0.0)
        notes["nothing was changed: the model as a whole is not faster"] = None
    else:
        chosen = forms[best]
    chosen.notes = (*notes, *chosen.notes)
    return chosen, trials


def make_report(
    replacer: Replacer, form: Form, trials: Mapping[str, Times], left: tuple[Left, ...], unmeasured: str
) -> FuseReport:
    """Return the report about the chosen form of a model.

    Args:
        replacer: has the check of its modules.
        form: the chosen form.
        trials: times of all forms.
        left: modules without an adapter.
        unmeasured: why nothing was measured; empty if it was.
    """
    replaced, slower = form.rows(replacer)
    original = [Times(one.before, one.before, 1.0, 1.0) for one in trials.values()]
    return FuseReport(
        replaced,
        (*left, *replacer.left, *slower),
        form.folded,
        form.difference,
        replacer.tolerance,
        replacer.unchecked,
        form.notes,
        form.packings,
        trials.get(form.name, original[0] if original else None),
        trials,
        unmeasured,
    )


def _fold(replacer: Replacer, judge: Judge, plan: Plan) -> Form:
    """Return a copy of the model, folded and packed by a plan."""
    form = Form(replacer.copy(), plan.name)
    blocked = {path for path, _, reason in walk(replacer.model) if reason}
    form.folded = fold_layers(form.model, plan.folds, blocked)
    if plan.memory_format is not None:
        for tensor in (*form.model.parameters(), *form.model.buffers()):
            if tensor.ndim == 4:  # `model.to` would also try those of 3-D convolutions, and fail
                tensor.data = tensor.data.to(memory_format=plan.memory_format)
    layers = packable(form.model, plan.packed, blocked)
    packing: Mapping[str, Times] = {}
    if plan.is_joint:
        for layer in layers:
            layer.take(True)
    else:
        packing = judge.decide(form.model, layers)
    form.packings = tuple(
        Packing(one.path, one.original.__name__, isinstance(one.module, Packed), packing.get(one.path))
        for one in layers
    )
    modules = dict(form.model.named_modules())
    choices = []
    for one in replacer.found:
        module = modules.get(one.path)
        if isinstance(module, Adapter) and module.adapter is one.adapter:  # no fold has changed what it expects
            choices.append(_choice(one.path, module, one.adapter))
    form.times = judge.decide(form.model, choices)
    form.difference = replacer.difference_of(form.model)
    packed = sum(one.is_packed for one in form.packings)
    if packed:
        form.notes += (f"{packed} layers keep a second copy of their weights, in a kernel's layout",)
    if form.folded and hasattr(form.model, "save_pretrained"):
        form.notes += ("save_pretrained would write names that from_pretrained does not know; save the original",)
    return form


def _choice(path: str, module: nn.Module, adapter: type[Adapter]) -> Choice:
    """Return the choice between a module with its adapter attached and without."""
    assert isinstance(module, Adapter)
    return Choice(path, module, module.original, type(module), adapter_name(adapter))


def _model_of(form: Form) -> Callable[[], nn.Module]:
    return lambda: form.model


def _reason(times: Times | None) -> str:
    if times is None:
        return "it is not faster in the stored calibration"
    return "the model as a whole is not faster" if times.is_faster else "it is not faster"


def _nearest(modules: Mapping[str, nn.Module], path: str) -> str:
    """Return the path of a module, or of the rebuilt module that contains it now."""
    while path not in modules:
        path = path.rpartition(".")[0]
    return path
