"""Networks: VGGs and torchvision's ResNet-50 at any width and resolution, with the normalisation inside."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pickle import UnpicklingError

from labkit.core import InputError
from labkit.core.checkpoint import digest
from labkit.core.recipes import ClassifierRecipe, Weights
from labkit.core.wording import check, reason, to_set
from labkit.datasets import Images
from labkit.models.thermometer import Thermometer

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# Convolutions between two poolings.
VGGS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
NETWORKS = (*VGGS, "resnet50")

# Of a network's weights while it works, and so of what flows between convolutions: 0.6 to 0.9 of the time on CPUs.
LAYOUT = torch.channels_last

_SMALL = 128  # pixels below which ResNet's stem keeps the resolution


class Classifier(nn.Module):
    """A network that takes images as they are: (B, C, H, W) in [0, 1] -> logits (B, classes).

    The normalisation is part of the model, so that attacks, defenses and measures share one pixel range.

    mean, std  (C, 1, 1) buffers, per channel, of the training images; 0 and 1 until trained
    levels     0, or how many levels of a thermometer encoding (`thermometer`) take the place of the normalisation;
               `network` then takes C · levels channels
    mirrored   whether, in evaluation mode, the logits are the mean of those for an image and for its mirror image
    """

    def __init__(self, network: nn.Module, channels: int, levels: int = 0, mirrored: bool = False):
        super().__init__()
        self.network, self.mirrored = network, mirrored
        self.encode = Thermometer(levels) if levels else None
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.encode(x) if self.encode else (x - self.mean) / self.std
        if not self.mirrored or self.training:
            return self.network(x)
        mirror = self.network(x.flip(3))  # first, so that what looks into the network sees the image itself last
        return (mirror + self.network(x)) / 2


class Several(nn.ModuleList):
    """Networks that answer together, with the mean of their logits."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self]).mean(0)


class Recomputed(nn.Module):
    """A deterministic network that computes its activations again on the way back instead of keeping them.

    The gradient of answers averaged over draws then holds one draw at a time, and runs each forward pass twice.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.network, x, use_reentrant=False, preserve_rng_state=False)


def build(recipe: ClassifierRecipe, classes: int, channels: int, resolution: int) -> Classifier:
    """An untrained network, its weights drawn from `recipe.seed`.

    It is torchvision's, layer for layer, with `recipe.width` times its channels, except for what is made for 224
    pixels and 1,000 classes. VGG (with batch normalisation): a global average and one linear layer, where torchvision
    flattens 7×7 features into two layers of 4,096 units. ResNet: below 128 pixels its first convolution is 3×3 without
    stride and without pooling after it, as is usual for CIFAR-10.

    channels    of the images: 1 grey, 3 colour
    resolution  of the images, in pixels; at least 32, because five steps halve it

    Raises InputError when the network is unknown, the images are too small for it, the levels are too few, or a ResNet
    is to have dropout.
    """
    if recipe.network not in NETWORKS:
        raise InputError(f"unknown network {recipe.network!r}; the known ones are {', '.join(NETWORKS)}")
    if resolution < 32:
        how = f"enlarge them, as with {to_set('resolution', 32)}"
        raise InputError(f"{recipe.network} needs images of at least 32 pixels and got {resolution}; {how}")
    check("a thermometer encoding (0 for none)", {"levels": recipe.levels or None}, "levels in [2, inf)")
    if recipe.dropout and recipe.network not in VGGS:
        raise InputError(f"dropout is for VGGs, and not for {recipe.network}; set {to_set('dropout', 0)}")
    make = _resnet if recipe.network == "resnet50" else _vgg
    network = blank(lambda: make(recipe, classes, channels * (recipe.levels or 1), resolution))
    initialise(network, recipe.seed, mode="fan_out")
    return Classifier(network, channels, recipe.levels, recipe.mirrored)


def of(recipe: ClassifierRecipe, images: Images) -> Classifier:
    """`build` for training images, by the shorter of their sides."""
    return build(recipe, len(images.classes), images.x.shape[1], min(images.x.shape[2:]))


def load(model: Classifier, weights: Weights) -> Classifier:
    """Fill `model` from a file of its own state dict: safetensors, or what `torch.save` wrote; never unpickles code.

    The file may be the state dict of the whole Classifier (as labkit stores it), or of the bare network, when mean
    and std stay as they are. Raises InputError when the file cannot be read, has changed since the recipe was made
    (`fingerprint`), or does not fit the network.
    """
    if weights != fingerprint(weights.path):
        raise InputError(f"{weights.path} has changed since its recipe was made; call networks.fingerprint again")
    tensors = read(weights.path)
    whole = any(name.startswith("network.") for name in tensors)
    fill(model if whole else model.network, tensors, weights.path)
    return model.eval()


def read(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file: safetensors, or what `torch.save` wrote; never unpickles code, and refuses to."""
    try:
        safe = Path(path).suffix == ".safetensors"
        tensors = (load_file if safe else partial(torch.load, map_location="cpu", weights_only=True))(path)
        if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
            raise ValueError("it holds no tensors by name")
        return tensors
    except UnpicklingError as error:
        why = f"cannot read weights from {path}: it is a pickle of more than tensors, which may run any code"
        how = "save the network's state_dict() alone, with safetensors.torch.save_file"
        raise InputError(f"{why}; {how}, and give a safetensors file") from error
    except Exception as error:  # torch raises a dozen types for damaged files
        raise InputError(f"cannot read weights from {path} ({reason(error)}); give a safetensors file") from error


def fill(network: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    """Gives the network the tensors that were in the file at `path`; InputError unless they are its own."""
    try:
        network.load_state_dict(tensors)
    except Exception as error:
        *_, line = str(error).splitlines()[:2]  # the first one is a title, where there are more
        raise InputError(f"{path} is of another network; build that one: {line.strip()[:200]}") from None


def fingerprint(path: str | Path) -> Weights:
    """A file of weights as a recipe names it: by its content, wherever it lies."""
    try:
        return Weights(str(path), digest(Path(path)))
    except OSError as error:
        raise InputError(f"cannot read weights from {path} ({error.strerror}); give the path of a file") from None


def frozen(model: nn.Module, device: str | torch.device) -> nn.Module:
    """The network ready to be asked: in evaluation mode, on the device, in the fast layout, its weights fixed."""
    return model.eval().requires_grad_(False).to(device, memory_format=LAYOUT)


def _vgg(recipe, classes, channels, resolution) -> nn.Module:
    # Not from torchvision, whose models load a compiler: a second and 70 MB for every kernel and page.
    features = []
    for n, repeats in zip((64, 128, 256, 512, 512), VGGS[recipe.network], strict=True):
        for _ in range(repeats):
            units = max(1, round(n * recipe.width))
            features += [nn.Conv2d(channels, units, 3, padding=1), nn.BatchNorm2d(units), nn.ReLU(inplace=True)]
            channels = units
        features += [nn.MaxPool2d(2), *[nn.Dropout(recipe.dropout)] * bool(recipe.dropout)]
    parts = [("features", nn.Sequential(*features)), ("avgpool", nn.AdaptiveAvgPool2d(1))]
    return nn.Sequential(OrderedDict([*parts, ("flatten", nn.Flatten()), ("classifier", nn.Linear(channels, classes))]))


def _resnet(recipe, classes, channels, resolution) -> nn.Module:
    from labkit.core.torchvision_shim import torchvision

    resnet = torchvision.models.resnet
    first = max(1, round(64 * recipe.width))

    class Scaled(resnet.ResNet):
        """torchvision writes its channel numbers into the constructor; all but the stem's pass through here."""

        def _make_layer(self, block, planes, *rest, **named):
            if planes == 64:
                self.inplanes = first
            return super()._make_layer(block, max(1, round(planes * recipe.width)), *rest, **named)

    network, small = Scaled(resnet.Bottleneck, [3, 4, 6, 3]), resolution < _SMALL
    size, stride, padding = (3, 1, 1) if small else (7, 2, 3)
    network.conv1 = nn.Conv2d(channels, first, size, stride=stride, padding=padding, bias=False)
    network.bn1 = nn.BatchNorm2d(first)
    if small:
        network.maxpool = nn.Identity()
    network.fc = nn.Linear(network.layer4[-1].conv3.out_channels, classes)
    return network


def classes_of(model: Classifier) -> int:
    """How many classes a network tells apart."""
    return [module for module in model.network.modules() if isinstance(module, nn.Linear)][-1].out_features


def blank(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` builds, its weights yet to be filled: torch draws them from the global random state, which stays."""
    with torch.random.fork_rng(devices=[]):
        return make()


def initialise(network: nn.Module, seed: int, mode: str) -> None:
    """torchvision's initial weights, drawn from `seed`; `mode` is that of He's initialisation of convolutions."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01, generator=generator)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
