import pytest
import torch

from labkit.precision import has_bfloat16


@pytest.mark.parametrize(
    ("capable", "expected"),
    [({"avx512_bf16": True}, False), ({"amx_bf16": True, "avx512_bf16": False}, True), ({"avx2": True}, False)],
)
def test_a_processor_has_it_when_it_has_tiles(capable, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capable)
    assert has_bfloat16(torch.device("cpu")) is expected
