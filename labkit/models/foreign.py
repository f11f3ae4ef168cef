"""Other people's networks and defenses: taken by a SPEC or as Python objects, wrapped, and told apart by a digest.

SPEC of a network   `torchvision:NAME` or `timm:NAME`, pretrained; `file.py:FUNCTION`, a function that returns it; each
                    with `@FILE` for weights of its own; `NAME.pt2`, what `torch.export.save` wrote
SPEC of a callable  `file.py:FUNCTION`: a function that returns it or, if it has a parameter without default, is it
"""

import copy
import functools
import hashlib
import inspect
import os
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import labkit
from labkit.attacks import drawn
from labkit.core import InputError
from labkit.core.wording import reason, typed
from labkit.models import networks
from labkit.models.defense import Defense

import torch
from torch import Tensor, nn

_SPEC = re.compile(r"(?:(torchvision|timm):([\w.-]+)|(.+\.py):(\w+))(?:@(.+))?|(.+\.pt2)", re.DOTALL)
# Where neither an error nor a digest is looked for: here, in the standard library, and in packages.
_OURS = os.path.dirname(labkit.__file__), os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(torch.__file__))
_SAFE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass
class Found:
    """What a SPEC or a Python object is.

    thing      a network or a callable; of a module a copy, in evaluation mode
    label      what rows call it: the SPEC without folders, or "given:NAME"
    source     the bytes of the file it comes from
    batch      of an exported network, the only size of batch that it takes, if there is one
    mean, std  of the images that a library's own weights were trained with
    restless   whether parts of it stay in training mode when they are told otherwise; they are put out of it
    """

    thing: Any
    label: str
    source: bytes = b""
    batch: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    restless: bool = False

    @property
    def name(self) -> str:
        """The label as sentences have it."""
        return self.label.removeprefix("given:")

    def digest(self, *facts: object) -> str:
        """Of its file, structure, weights and closure, and of `facts`, which tell it apart as well."""
        sha = hashlib.sha256(self.source)
        _feed(sha, (self.thing, facts), {})
        return sha.hexdigest()


def network(what: str | nn.Module) -> Found:
    """A network by its SPEC, or as it is. Raises InputError where there is none, or weights do not fit it."""
    if isinstance(what, nn.Module):
        return _at_rest(Found(what, f"given:{type(what).__name__}"))
    zoo, name, file, function, path, exported = _parts(what, "torchvision:NAME, timm:NAME, file.py:FUNCTION, NAME.pt2")
    if exported:
        return _exported(exported)
    tensors = _weights(path) if path else None
    found = _pretrained(zoo, name, tensors) if zoo else _called(_function(file, function))
    if not isinstance(found.thing, nn.Module):
        raise InputError(f"{found.label} returns {type(found.thing).__name__}; let it return a torch.nn.Module")
    if path:
        networks.fill(found.thing, tensors, path)
        found.label += f"@{Path(path).name}"
    return _at_rest(found)


def function(what: str | Callable) -> Found:
    """A callable by its SPEC, or as it is: for defenses, images to images; for attacks as in `labkit.attacks`."""
    if not isinstance(what, str):
        name = getattr(what, "__qualname__", type(what).__name__).replace("<locals>.", "")
        return _at_rest(Found(what, f"given:{name}"))
    _, _, file, name, _, _ = _parts(what, "file.py:FUNCTION")
    found = _function(file or what, name or "")
    asked = inspect.signature(found.thing).parameters.values()
    if not any(p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in asked):
        found = _called(found)
    if not callable(found.thing):
        raise InputError(f"{found.label} returns {type(found.thing).__name__}; let it return a function of images")
    return _at_rest(found)


def placed(spec: str) -> str:
    """A SPEC as it is meant here, for a process in another folder; any other word as it is."""
    if not (parts := _SPEC.fullmatch(spec)):
        return spec
    zoo, name, file, function, weights, exported = parts.groups()
    files = [path and os.path.abspath(typed(path)) for path in (file, weights, exported)]
    return files[2] or (f"{zoo}:{name}" if zoo else f"{files[0]}:{function}") + (f"@{files[1]}" if weights else "")


@contextmanager
def theirs(name: str) -> Iterator[None]:
    """Says where somebody else's code fails, in a sentence, the error itself behind it."""
    try:
        yield
    except (InputError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
        lines += [(error.filename, error.lineno)] if isinstance(error, SyntaxError) else []
        lines = [(file, at) for file, at in lines if os.path.isfile(file) and not file.startswith(_OURS)]
        where = f", {Path(lines[-1][0]).name} line {lines[-1][1]}" if lines else ""
        raise InputError(f"{name} fails ({type(error).__name__}: {reason(error)}{where}); mend it there") from error


class _AtRest(nn.Module):
    """Stays in evaluation mode: some modules within would leave it, or refuse to be asked (exported ones)."""

    def train(self, mode: bool = True) -> nn.Module:
        self.training = False
        return self


class Network(_AtRest):
    """Somebody else's network as ours are: images (B, C, H, W) in [0, 1] -> logits (B, classes), where images lie.

    mean, std  a number per channel that the network wants subtracted and divided by; by default the library's own
    order      positions in its outputs of the classes that count, in their order; None for all
    odds       whether it answers with probabilities, whose logarithms are the logits then; `meet` finds out
    """

    def __init__(self, found: Found, mean=None, std=None, order=None):
        super().__init__()
        self.network, self.name, self.batch, self.odds = found.thing, found.name, found.batch, False
        mean, std = (found.mean, found.std) if mean is None and std is None else (mean, std)
        for part, given, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            value = torch.as_tensor(default if given is None else given, dtype=torch.float32)
            self.register_buffer(part, value.reshape(-1, 1, 1))
        self.register_buffer("order", None if order is None else torch.as_tensor(order, dtype=torch.long))
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        out = self._outputs(x)
        return out if self.order is None else out[:, self.order]

    def _outputs(self, x: Tensor) -> Tensor:
        if {len(self.mean), len(self.std)} - {1, x.shape[1]}:
            raise InputError(f"mean and std need one number for each of {x.shape[1]} channels; give as many")
        seen, size = (x - self.mean.to(x)) / self.std.to(x), self.batch or len(x)
        if short := -len(x) % size:
            seen = torch.cat([seen, seen[-1:].expand(short, *seen.shape[1:])])
        with theirs(self.name):
            out = [self.network(_as_for(self.network, part)) for part in seen.split(size)]
            out = torch.cat([getattr(part, "logits", part) for part in out]).to(x)
        if out.ndim != 2 or len(out) != len(seen):
            need = f"let a network answer with logits ({len(seen)}, classes)"
            raise InputError(f"{self.name} answers {tuple(out.shape)} for {len(seen)} images; {need}")
        out = out[: len(x)]
        return out.clamp_min(torch.finfo(out.dtype).tiny).log() if self.odds else out

    @torch.no_grad()
    def meet(self, x: Tensor, classes: int, named: bool) -> list[str]:
        """Finds out, on images x, whether its answers are probabilities; returns sentences on what it is.

        classes  of the images; without `order` the outputs must be as many, or more where they are not `named`

        Raises InputError where it answers NaN, or tells other classes apart.
        """
        out = self._outputs(x)
        there, order = out.shape[1], list(range(out.shape[1])) if self.order is None else self.order.tolist()
        fits = len(set(order)) == len(order) and set(order) <= set(range(there))
        if not fits or len(order) < classes or (len(order) > classes and (named or self.order is not None)):
            how = "give classes=, the position of each of them in the outputs, or other images"
            raise InputError(f"{self.name} tells {there} classes apart, and the images have {classes}; {how}")
        if out.isnan().any():
            raise InputError(f"{self.name} answers NaN to {int(out.isnan().any(1).sum())} of {len(x)} images; mend it")
        self.odds = there > 1 and bool((out >= 0).all() and ((out.sum(1) - 1).abs() < 5e-3).all())
        told = "answers with probabilities, not logits; their logarithms are used"
        return [f"{self.name} {told}. Where they round to 0 or 1, they hide its gradient."] * self.odds


class Cleaner(_AtRest, Defense):
    """Somebody else's callable as a `Defense`: what it answers is clipped to [0, 1].

    found   the callable, images (B, C, H, W) to the same shape; None for a defense that is only described
    source  as recipes name it (`Workbench.adopted`)

    A random one draws from the global random states, which begin, at each call, at a seed of its own.
    """

    def __init__(self, found: Found | None = None, *, source=None, differentiable=True, stochastic=False):
        super().__init__()
        self.clean, self.name = (found.thing, found.name) if found else (None, "")
        self.differentiable, self.stochastic = differentiable, stochastic
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        seed = int(torch.randint(2**31, (), generator=self.generator)) if self.stochastic else 0
        with drawn(seed):
            return self.raw(x if self.differentiable else x.detach()).clamp(0, 1)

    def raw(self, x: Tensor) -> Tensor:
        """What the callable itself answers, drawn from the random states as they are. Raises InputError as `theirs`."""
        with theirs(self.name):
            out = self.clean(_as_for(self.clean, x))
        shape = tuple(getattr(out, "shape", ()))
        if shape != tuple(x.shape):
            need = "let a defense answer with images of the same size"
            raise InputError(f"{self.name} answers {shape} for images {tuple(x.shape)}; {need}")
        return out.to(x)


def _as_for(module: object, x: Tensor) -> Tensor:
    """x in the precision, and on the device, of a module's weights."""
    held = [*module.parameters(), *module.buffers()] if isinstance(module, nn.Module) else []
    first = next((tensor for tensor in held if tensor.is_floating_point()), x)
    return x.to(first.device, first.dtype)


def _at_rest(found: Found) -> Found:
    """The same with, where it is a module, a copy of it in evaluation mode, whose weights need no gradient."""
    if isinstance(found.thing, nn.Module):
        with suppress(Exception):  # what cannot be copied is used as it is
            found.thing = copy.deepcopy(found.thing)
        parts = [*found.thing.eval().requires_grad_(False).modules()]
        found.restless = any(part.training for part in parts)
        for part in parts:
            part.training = False
    return found


def _parts(spec: str, need: str) -> tuple[str | None, ...]:
    if not (parts := _SPEC.fullmatch(spec)):
        raise InputError(f"{spec!r} names nothing; write {need}")
    return parts.groups()


def _weights(path: str) -> dict[str, Tensor]:
    """A state dict, also where training has wrapped it as "state_dict" or "model", and names as "module.NAME"."""
    tensors = networks.read(typed(path))
    for key in ("state_dict", "model"):
        tensors = tensors[key] if isinstance(tensors.get(key), dict) else tensors
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _pretrained(zoo: str, name: str, tensors: dict | None) -> Found:
    """A network of a library: with its own weights, or with as many outputs as the last of these `tensors` has."""
    how, trained = {}, tensors is None
    try:
        if zoo == "timm":
            import timm

            make = functools.partial(timm.create_model, name, pretrained=trained)
            shown = timm.get_pretrained_cfg(name) if trained else Found
        else:
            from labkit.core.torchvision_shim import torchvision

            weights = torchvision.models.get_model_weights(name).DEFAULT if trained else None
            make = functools.partial(torchvision.models.get_model, name, weights=weights)
            shown = weights.transforms() if trained else Found
        with drawn(0):
            if not trained:
                *_, last = (key for key, value in make().state_dict().items() if value.ndim)
                make = functools.partial(make, **({"num_classes": len(tensors[last])} if last in tensors else {}))
            return Found(make(), f"{zoo}:{name}", mean=shown.mean, std=shown.std)
    except ImportError:
        raise InputError(f"{zoo}:{name} needs the package {zoo}; run `pip install {zoo}`") from None
    except Exception as error:  # unknown names, and all that can happen to a download
        how = "check the name, or give weights of your own as NAME@FILE.safetensors"
        raise InputError(f"{zoo}:{name} cannot be had ({reason(error)}); {how}") from error


def _exported(path: str) -> Found:
    before = os.environ.get(_SAFE)
    os.environ[_SAFE] = "1"  # torch.export.load would fall back on unpickling whatever is there
    try:
        program = torch.export.load(typed(path))
        given = program.graph_signature.user_inputs[0]
        size = next(node.meta["val"].shape[0] for node in program.graph.nodes if node.name == given)
        module = program.module().requires_grad_(False)
    except Exception as error:  # torch raises a dozen types for damaged files
        raise InputError(f"cannot read {path} ({reason(error)}); export it anew with torch.export.save") from error
    finally:
        os.environ.pop(_SAFE) if before is None else os.environ.update({_SAFE: before})
    for part in module.modules():  # it has no modes: it is what it was exported in
        part.training = False
    return Found(module, f"exported:{Path(path).name}", batch=size if isinstance(size, int) else None)


def _function(path: str, name: str) -> Found:
    """A function of somebody's file, which is run as a module of its own, with its folder on the path."""
    file = typed(path).absolute()
    try:
        source = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path} ({reason(error)}); give the path of a Python file") from None
    module = types.ModuleType(f"_{file.stem}_{hashlib.sha256(str(file).encode() + source).hexdigest()[:8]}")
    module.__file__, sys.modules[module.__name__] = str(file), module
    sys.path.insert(0, str(file.parent))
    try:
        with theirs(file.name), drawn(0):
            exec(compile(source, str(file), "exec"), vars(module))
    finally:
        sys.path.remove(str(file.parent))
    if not callable(getattr(module, name, None)):
        raise InputError(f"{file.name} has no function {name!r}; name one that it has")
    return Found(getattr(module, name), f"{file.name}:{name}", source)


def _called(found: Found) -> Found:
    """What a function returns, in its place."""
    with theirs(found.label), drawn(0):
        found.thing = found.thing()
    return found


def _feed(sha, part: object, seen: dict[int, object]) -> None:
    """Adds to a digest what a Python object is: the file of its code, and all that it holds, also in a closure."""
    if isinstance(part, Tensor):
        flat = part.detach().cpu().contiguous().flatten().view(torch.uint8)
        sha.update(f"{part.dtype}{tuple(part.shape)}".encode() + flat.numpy().tobytes())
    elif part is None or isinstance(part, (str, bytes, int, float)):
        sha.update(f"{part!r};".encode())
    elif id(part) not in seen:
        seen[id(part)] = part  # kept: another object may get the number of one that is gone
        code = part if inspect.isroutine(part) or isinstance(part, type) else type(part)
        sha.update(f"{code.__module__}.{code.__qualname__}".encode())
        with suppress(OSError, TypeError):  # of what was typed, or is built in
            file = inspect.getsourcefile(code) or ""
            sha.update(b"" if file.startswith(_OURS) else Path(file).read_bytes())
        held = [*part.items()] if isinstance(part, dict) else [*part] if isinstance(part, (tuple, list)) else []
        if not isinstance(part, type):
            held += [getattr(part, name, None) for name in ("__dict__", "__self__", "__defaults__", "func", "args")]
        held += [cell.cell_contents for cell in getattr(part, "__closure__", None) or ()]
        for value in held:
            _feed(sha, value, seen)
