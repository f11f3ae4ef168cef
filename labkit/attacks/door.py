"""The door of every attack: what comes in is checked and made alike, and what it borrows is left as it was found."""

import inspect
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model
from labkit.core import InputError
from labkit.core.wording import check
from labkit.datasets import check_pixels

import numpy as np
import torch
from torch import Tensor, nn

_LIMITS = f"seed in 0 to {2**64 - 1}; restarts, draws, queries, steps, searches in 0 to inf; epochs, batch in 1 to inf"
_MOODY = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd  # whose answers are others in training


def behind(attack: Callable) -> Callable:
    """An attack (model, x, y, *, budget, …) -> x_adv, entered by this door; without a budget where it needs none."""
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
    """The model in evaluation mode, its answers checked, and the classes y (n,) as int64, where gradients can be taken.

    In the end the mode of every module, the caller's `no_grad` or `inference_mode`, and the global random states (of
    torch, numpy and Python), which begin at `seed` within, are what they were. Raises InputError on labels that are no
    integers, or not in the range of the model's classes, and on settings that no attack can work with.
    """
    check(name, {"seed": seed, **options}, _LIMITS)
    if not (isinstance(budget, Budget) or (budget is None and uncapped)):
        raise InputError(f"{name} needs a budget, as Budget.l2(0.5); only deepfool, cw, ddn and hopskipjump need none")
    y, held = _classes(name, y, n), [model, getattr(model, "__self__", None)]
    if inspect.isfunction(model):  # around a network, most likely
        held += [value for names in inspect.getclosurevars(model)[:2] for value in names.values()]
    modes = {part: part.training for network in held if isinstance(network, nn.Module) for part in network.modules()}
    if any(mode and isinstance(part, _MOODY) for part, mode in modes.items()):
        told = "got a network in training mode and attacks it in evaluation mode, as it is judged; call eval()"
        warnings.warn(f"{name} {told}", stacklevel=4)
    with drawn(seed), torch.inference_mode(False):
        try:
            for part in modes:  # not `eval()`, which some networks write anew
                part.training = False
            # Again, since what was made in inference mode cannot be differentiated with.
            yield _answering(name, model, int(y.max())), y.clone()
        finally:
            for part, mode in modes.items():
                part.training = mode


@contextmanager
def drawn(seed: int) -> Iterator[None]:
    """Within it, the global random states (of torch, numpy and Python) begin at `seed`; then they are as before."""
    states, cuda = (random.getstate(), np.random.get_state()), torch.cuda.is_initialized()  # noqa: NPY002
    with torch.random.fork_rng(range(cuda and torch.cuda.device_count())):
        for begin in (random.seed, np.random.seed, torch.manual_seed):
            begin(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _classes(name: str, y: Tensor, n: int) -> Tensor:
    need = f"{name} needs one class index for each of {n} images; pass such, and not"
    try:
        found = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{need} {type(y).__name__}") from None
    if found.shape != (n,) or found.dtype == torch.bool or not torch.can_cast(found.dtype, torch.uint8):
        raise InputError(f"{need} {tuple(found.shape)} {found.dtype}")
    if (found := found.long()).min() < 0:
        raise InputError(f"{need} {int(found.min())}, but count them from 0")
    return found


def _answering(name: str, model: Model, most: int) -> Model:
    """The model, whose answers must be logits that have a place for class `most`.

    Weights that were made in inference mode give no gradient; copies stand in for them.
    """
    named = [*model.named_parameters(), *model.named_buffers()] if isinstance(model, nn.Module) else []
    made = {key: tensor.clone() for key, tensor in named if tensor.is_inference()}

    def answers(x: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, made, x) if made else model(x)
        shape = tuple(getattr(logits, "shape", ()))
        if len(shape) != 2 or shape[0] != len(x):
            raise InputError(f"{name} got {shape} for {len(x)} images; pass a model that answers ({len(x)}, classes)")
        if most >= shape[1]:
            why = f"the model tells {shape[1]} classes apart, 0 to {shape[1] - 1}, and a label is {most}"
            raise InputError(f"{name} needs labels counted from 0; mend them: {why}")
        return logits

    return answers
