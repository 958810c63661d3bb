"""Products with packed weights: the same numbers on every processor, whatever its instructions."""

from __future__ import annotations

import pytest
import torch

from foredraft_cloud.linear import pack


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("supported", [True, False])
def test_a_packed_product_is_the_product(dtype: torch.dtype, supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not supported:  # as on a processor with AVX2 only
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    generator = torch.Generator().manual_seed(1)
    weight, rows = torch.randn(48, 32, generator=generator), torch.randn(4, 32, generator=generator)
    bias = torch.randn(48, generator=generator)
    expected = rows.to(dtype).double() @ weight.to(dtype).double().T + bias.to(dtype).double()
    found = pack(weight, bias, dtype)(rows.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, atol=0.1 if dtype == torch.bfloat16 else 1e-4, rtol=0.01)
