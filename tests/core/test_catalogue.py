"""What is read from source text is what importing everything gives."""

import subprocess
import sys
from inspect import Parameter

import pytest
import torch

from sptsr.core import catalogue, registry
from sptsr.core.errors import UserError
from sptsr.core.signatures import hint_of, parameters
from sptsr.core.values import plain_types

KINDS = ('arch', 'dataset', 'loss', 'metric', 'model', 'unit', 'source')


def _alike(read: dict[str, Parameter] | None, real: dict[str, Parameter] | None, what: str) -> None:
    assert (read is None) == (real is None), what
    if read is None or real is None:
        return
    assert list(read) == list(real), what
    for name, parameter in real.items():
        assert (read[name].default is Parameter.empty) == (parameter.default is Parameter.empty), (what, name)
        # torch imports the types of these two for type checkers only; source text has them
        if what not in ('CyclicLR', 'OneCycleLR'):
            one, other = (set(plain_types(hint_of(each))) for each in (read[name], parameter))
            assert one == other, (what, name)


@pytest.mark.parametrize('kind', KINDS)
def test_names_and_arguments_are_those_of_the_registry(kind: str):
    real = getattr(registry, f'{kind.upper()}_REGISTRY')._obj_map
    shipped = {n: o for n, o in real.items() if o.__module__.startswith((*registry.BASICSR, *registry.OWN))}
    read = catalogue._from_source()[kind]
    assert read.keys() == shipped.keys()
    assert len(read) >= 3
    for name, found in shipped.items():
        assert (read[name].module, read[name].name) == (found.__module__, found.__name__)
        for method in ('__init__', 'settings', 'forward'):
            loaded = catalogue.Entry(found.__module__, found.__name__, found)
            _alike(read[name].parameters(method), loaded.parameters(method), f'{name}.{method}')


def test_optimisers_and_schedulers_are_those_of_this_torch():
    plain = torch.optim.Optimizer
    found = {n for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, plain)}
    assert set(catalogue.entries('optimizer')) == found - catalogue._NO_OPTIMIZER
    base = torch.optim.lr_scheduler.LRScheduler
    every = vars(torch.optim.lr_scheduler).items()
    found = {n for n, c in every if isinstance(c, type) and issubclass(c, base) and n[0] != '_'}
    ours = {'MultiStepRestartLR', 'CosineAnnealingRestartLR'}
    assert set(catalogue.entries('scheduler')) == found - catalogue._NO_SCHEDULER | ours
    from sptsr.core.optim import find_optimizer, find_scheduler

    for kind, find in (('optimizer', find_optimizer), ('scheduler', find_scheduler)):
        for name, entry in catalogue.entries(kind).items():
            given_by_the_program = ('params', 'optimizer')
            read = {key: p for key, p in (entry.parameters() or {}).items() if key not in given_by_the_program}
            _alike(read, parameters(find(name), given_by_the_program), name)


def test_a_wrong_name_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="no arch is called 'IDMN'; did you mean"):
        catalogue.find('arch', 'IDMN')
    assert catalogue.find('arch', 'SRVGGNetCompact').name == 'SRVGGNetCompact'
    with pytest.raises(UserError, match='known: .*ModulationUnit, '):
        catalogue.find('unit', 'xxxxxxx')


def test_what_a_user_registered_comes_first(monkeypatch: pytest.MonkeyPatch):
    def mine(width: int) -> None:
        """Stands for a user's network."""

    monkeypatch.setitem(registry.ARCH_REGISTRY._obj_map, 'IMDN', mine)
    assert list(catalogue.find('arch', 'IMDN').parameters() or ()) == ['width']
    registry.register(registry.ARCH_REGISTRY, 'IMDN', replaceable=True)(type('IMDN', (), {}))
    assert registry.lookup(registry.ARCH_REGISTRY, 'IMDN') is mine


def test_nothing_is_imported_for_it():
    code = (
        'import sys; from sptsr.core.catalogue import find\n'
        "assert find('arch', 'SwinIR').parameters() and find('scheduler', 'StepLR').parameters()\n"
        "print([name for name in ('torch', 'basicsr', 'numpy', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ('[]', '')
