"""A network of a million layers is refused before it is built."""

import pytest

from sptsr.archs.backbone import build_network
from sptsr.core.errors import UserError


@pytest.mark.parametrize('name', ['SRVGGNetCompact', 'MSRResNet'])
def test_a_network_without_end_is_refused(name: str):
    key = 'num_conv' if name == 'SRVGGNetCompact' else 'num_block'
    with pytest.raises(UserError, match=f'network: {name}: more than 20,000 tensors; lower its numbers of layers'):
        build_network({'type': name, 'num_feat': 1, key: 10**9})
