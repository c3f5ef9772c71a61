"""`train.compile` makes the same steps."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.archs.cases import make_net
from tests.tuning.test_tuner import _batch, _tuner


def test_a_compiled_network_learns_the_same(monkeypatch: pytest.MonkeyPatch):
    """With the compiler's own graphs and gradients; the code that inductor writes for them takes a minute to build."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend('aot_eager')
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=counter))
    plain = make_net('IMDN')
    compiled = copy.deepcopy(plain)
    batch = _batch(plain)
    losses = {}
    for name, net in (('plain', plain), ('compiled', compiled)):
        tuner = _tuner(net, compile=name == 'compiled', ema_decay=0.9)
        for iteration in (1, 2, 3):
            tuner.set_rates(iteration)
            losses.setdefault(name, []).append(tuner.step(batch)['l_pix'])
    assert counter.op_count > 20
    assert losses['compiled'] == pytest.approx(losses['plain'], rel=1e-5)
    assert losses['plain'][2] < losses['plain'][0]
    for one, other in zip(plain.adapter_parameters().values(), compiled.adapter_parameters().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)
