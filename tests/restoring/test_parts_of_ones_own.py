"""An adapter with units of a plug-in file is restored with and exported where the file is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import sptsr
from sptsr.core.registry import UNIT_REGISTRY, import_plugins
from tests.conftest import photograph, run_cli

UNIT = """\
from sptsr.archs.units import ModulationUnit
from sptsr.core.registry import UNIT_REGISTRY, register

@register(UNIT_REGISTRY)
class UnitOfOnesOwn(ModulationUnit):
    pass
"""


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ('here.py', 'unit.py'):  # a file that was imported here is not imported again by a command's process
        Path(name).write_text(UNIT)
    import_plugins(['here.py'])
    try:
        backbone = {'type': 'SRVGGNetCompact', 'num_feat': 8, 'num_conv': 2, 'upscale': 2}
        net = sptsr.attach(backbone, unit='UnitOfOnesOwn')
    finally:
        del UNIT_REGISTRY._obj_map['UnitOfOnesOwn']
    torch.save(net.backbone.state_dict(), 'net.pth')
    sptsr.save(net, 'a.safetensors')
    Image.fromarray(photograph('coffee.png', 20, 24)).save('a.png')
    return 'a.safetensors'


@pytest.mark.parametrize('command', ['restore -i a.png -o out -a {} --source felzenszwalb', 'export {} -o out.onnx'])
def test_the_file_is_asked_for_and_taken(adapter: str, command: str):
    words = [*command.format(adapter).split(), '--weights', 'net.pth']
    done = run_cli(*words)
    assert done.returncode == 2
    assert "no unit is called 'UnitOfOnesOwn'" in done.stderr
    assert '--plugins FILE.py' in done.stderr
    assert not Path('out').exists()
    done = run_cli(*words, '--plugins', 'unit.py')
    assert done.returncode == 0, done.stderr
    assert Path('out/a.png').is_file() or Path('out.onnx').is_file()
