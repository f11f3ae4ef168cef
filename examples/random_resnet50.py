"""A ResNet-50 that has learned nothing, as a file of weights: to try everything at 224 pixels but the accuracy.

python examples/random_resnet50.py folder:PICTURES resnet50.safetensors
python -m labkit evaluate --model torchvision:resnet50@resnet50.safetensors --dataset folder:PICTURES --resolution 224 \
    --effort fast --without-pictures --note "The accuracy means nothing: …" --out DIR

Its features are drawn at random, normalised on some of the pictures. Its head decides for the class with the nearest
mean feature, fitted on all pictures, those that it is tested on as well: its clean accuracy is no accuracy at all.
"""

import sys

from labkit.core.torchvision_shim import torchvision
from labkit.datasets import Images, load

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


@torch.no_grad()
def weights(parts: list[Images], *, make=torchvision.models.resnet50, batch: int = 25) -> dict[str, Tensor]:
    """The state of a network of torchvision's with random features and a head of the class means of all images."""
    torch.manual_seed(0)
    classes = len(parts[0].classes)
    model = make(weights=None, num_classes=classes)
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        norm.momentum = 1.0  # what it normalises with is that of one batch
    model.train()(parts[0].x[:batch])
    model.eval()
    head, model.fc = model.fc, nn.Identity()
    sums, counts, length = torch.zeros_like(head.weight), torch.zeros(classes), []
    for images in parts:
        for x, y in images.batches(batch):
            features = model(x)
            sums.index_add_(0, y, features)
            counts.index_add_(0, y, torch.ones(len(y)))
            length.append(features.std(0).square().sum())
    # ‖f − m‖² = ‖f‖² − 2 (m·f − ‖m‖² / 2), of which the first is the same for all classes; scaled to odds of some size.
    means, scale = sums / counts.clamp_min(1)[:, None], 10 / torch.stack(length).mean()
    head.weight.copy_(scale * means)
    head.bias.copy_(-scale * means.square().sum(1) / 2).masked_fill_(counts == 0, -1e4)
    model.fc = head
    return {name: value.contiguous() for name, value in model.state_dict().items()}


if __name__ == "__main__":
    dataset, file = sys.argv[1:]
    save_file(weights([load(dataset, part, resolution=224) for part in ("train", "test")]), file)
