"""The example that makes weights of a network which has learned nothing, as `--model torchvision:NAME@FILE` takes."""

import runpy
from pathlib import Path

from labkit.core.torchvision_shim import torchvision
from labkit.datasets import Images
from labkit.models import foreign

import torch
from safetensors.torch import save_file


def test_the_head_decides_for_the_nearest_mean_of_random_features(tmp_path):
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "random_resnet50.py"))
    x, y = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(10) % 5
    parts = [Images(x[part], y[part], tuple("abcdef"), "0" * 16) for part in (slice(0, 7), slice(7, 10))]
    state = example["weights"](parts, make=torchvision.models.resnet18, batch=4)
    save_file(state, tmp_path / "net.safetensors")
    found = foreign.network(f"torchvision:resnet18@{tmp_path / 'net.safetensors'}").thing
    whole = torchvision.models.resnet18(weights=None, num_classes=6)
    whole.load_state_dict(state)
    with torch.no_grad():
        logits = found(x)
        whole.fc = torch.nn.Identity()
        features = whole.eval()(x)
    means = torch.stack([features[y == c].mean(0) for c in range(5)])
    assert torch.equal(logits[:, :5].argmax(1), torch.cdist(features, means).argmin(1))
    assert (logits.argmax(1) < 5).all()  # of the sixth there is no picture
    assert 1 < logits.softmax(1).amax(1).reciprocal().mean() < 6  # neither saturated nor flat
