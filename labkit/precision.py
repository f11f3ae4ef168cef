"""Which arithmetic the hardware does fast."""

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16; where it does not, emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capable = torch.cpu.get_capabilities()
    return bool(capable.get("amx_bf16") or capable.get("avx512_bf16"))
