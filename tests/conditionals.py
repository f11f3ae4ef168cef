"""What a PixelCNN says of all values of every sub-pixel: slow, for checking what looks at one value."""

from labkit.defenses.pixelcnn import channel_logs, mixture_weights

import torch


def log_probabilities(model, x):
    """log p(value | sub-pixels before) for all 256 values of each sub-pixel, (B, C, H, W, 256).

    x  (B, C, H, W) in [0, 1]; differentiable in it, and so not rounded to 8 bits
    """
    theta, levels = model(x), (255 * x).unbind(1)
    values = torch.arange(256.0, device=x.device, dtype=x.dtype).expand(*theta.shape[:-1], 256)
    known, logs = mixture_weights(theta, model.channels), []
    for c, level in enumerate(levels):
        known = known.log_softmax(-1)  # what the channels before say about the component
        earlier = list(levels[:c])
        logs.append((known[..., None, :] + channel_logs(theta, values, earlier, model.channels)).logsumexp(-1))
        known = known + channel_logs(theta, level[..., None], earlier, model.channels)[..., 0, :]
    return torch.stack(logs, 1)
