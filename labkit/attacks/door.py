"""The door of every attack: what comes in is checked and made alike, and what it borrows is left as it was found."""

import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from itertools import chain

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model
from labkit.core import InputError
from labkit.core.limits import check
from labkit.datasets import check_pixels

import numpy as np
import torch
from torch import Tensor, nn

_LIMITS = f"seed in 0 to {2**64 - 1}; restarts, draws, queries, steps, searches in 0 to inf; epochs, batch in 1 to inf"
_MOODY = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd  # whose answers are others in training


def behind(attack: Callable) -> Callable:
    """An attack (model, x, y, *, budget, …) -> x_adv, entered by this door; without a budget where it needs none.

    y may be of any integer type, but must lie in the range of the model's classes; x and y are copied. What the model
    draws from the global random state is drawn from `seed`. Raises InputError on anything an attack cannot work with.
    """
    name, uncapped = attack.__name__, inspect.signature(attack).parameters["budget"].default is None

    @wraps(attack)
    def enter(model: Model, x: Tensor, y: Tensor, **options) -> Tensor:
        check_pixels(x)
        with borrowed(name, model, y, len(x), uncapped=uncapped, **options) as (answers, y):
            return attack(answers, x[:].detach().clone(), y.to(x.device), **options)

    return enter


@contextmanager
def borrowed(
    name: str, model: Model, y: Tensor, n: int, *, seed: int = 0, budget=None, uncapped=False, **options
) -> Iterator[tuple[Model, Tensor]]:
    """The model at rest, its answers checked, and the classes y (n,) as int64, where gradients can be taken.

    In the end the mode of every module, the caller's `no_grad` or `inference_mode`, and the global random states (of
    torch, numpy and Python) are what they were.
    """
    check(name, {"seed": seed, **options}, _LIMITS)
    modes = {part: part.training for held in _networks(model) for part in held.modules()}
    if any(mode and isinstance(part, _MOODY) for part, mode in modes.items()):
        warnings.warn(f"{name} attacks a network in training mode as it is judged, at rest; call eval()", stacklevel=4)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=cuda), torch.inference_mode(False), torch.enable_grad():
        try:
            for part in modes:  # not `eval()`, which some networks write anew
                part.training = False
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            y = _classes(name, y, n)
            if not (isinstance(budget, Budget) or (budget is None and uncapped)):
                need = "needs a budget, as Budget.dissimilarity(0.08)"
                raise InputError(f"{name} {need}; only deepfool, cw and ddn need none")
            yield _answering(name, _usable(model), int(y.max())), y
        finally:
            for part, mode in modes.items():
                part.training = mode
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _classes(name: str, y: Tensor, n: int) -> Tensor:
    need = f"{name} needs one class index for each of {n} images, got"
    try:
        given = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{need} {type(y).__name__}") from None
    # No number with a fraction can be cast to an integer, of any size.
    if given.shape != (n,) or given.dtype == torch.bool or not torch.can_cast(given.dtype, torch.uint8):
        raise InputError(f"{need} {tuple(given.shape)} {given.dtype}")
    found = given.to(torch.int64, copy=True)  # what was made in inference mode cannot be differentiated with
    if (least := int(found.min())) < 0:
        raise InputError(f"{need} {least}; count them from 0")
    return found


def _answering(name: str, model: Model, most: int) -> Model:
    """The model, whose answers must be logits that have a place for class `most`."""

    def answers(x: Tensor) -> Tensor:
        logits = model(x)
        shape = tuple(getattr(logits, "shape", ()))
        if len(shape) != 2 or shape[0] != len(x):
            raise InputError(f"{name} needs a model that answers {len(x)} images with ({len(x)}, classes), got {shape}")
        if most >= shape[1]:
            why = f"the model tells {shape[1]} classes apart, 0 to {shape[1] - 1}, and a label is {most}"
            raise InputError(f"{name} needs labels counted from 0: {why}")
        return logits

    return answers


def _networks(model: Model) -> list[nn.Module]:
    """The networks of a model: itself, or those that a method or a function around them holds."""
    held = [model, getattr(model, "__self__", None)]
    if inspect.isfunction(model):
        found = inspect.getclosurevars(model)
        held += [*found.nonlocals.values(), *found.globals.values()]
    return [part for part in held if isinstance(part, nn.Module)]


def _usable(model: Model) -> Model:
    """The model, with copies in place of weights that were made in inference mode and give no gradient."""
    named = chain(model.named_parameters(), model.named_buffers()) if isinstance(model, nn.Module) else ()
    made = {name: tensor.clone() for name, tensor in named if tensor.is_inference()}
    return partial(torch.func.functional_call, model, made) if made else model
