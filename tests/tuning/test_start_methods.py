"""Python starts workers by fork, spawn or forkserver; the last is the default of Python 3.14 on Linux."""

import multiprocessing
from pathlib import Path

import pytest

from sptsr.core.plugin_files import module_name
from tests.conftest import base_options, write_options
from tests.tuning.processes import finish, start, tune

PLUGIN = """
from sptsr.data.paired import PriorPairedImageDataset
from sptsr.registry import DATASET_REGISTRY, register


@register(DATASET_REGISTRY, {name!r})
class Darker(PriorPairedImageDataset):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        sample['lq'] *= 0.5
        return sample
"""


def _tune_by(method: str, path: Path, root: Path, log: Path) -> None:
    multiprocessing.set_start_method(method, force=True)
    tune(path, root, log)


def test_a_dataset_from_a_plug_in_file_trains_under_every_start_method(
    photographs: Path, tiny_weights: Path, tmp_path: Path
):
    # a path with what a module's name cannot hold, and a name that no other module may get in the way of
    plugin = tmp_path / 'größe 2.0' / 'random.py'
    plugin.parent.mkdir()
    plugin.write_text(PLUGIN.format(name='DarkerDataset'))
    options = base_options(photographs, trains=True)
    options['network_g']['backbone_weights'] = str(tiny_weights)
    options['plugins'] = [str(plugin)]
    options['datasets']['train'] |= {'type': 'DarkerDataset'}
    options['train']['total_iter'] = 3
    written = {}
    for method, workers in (('fork', 0), ('spawn', 2), ('forkserver', 2)):
        options['datasets']['train']['num_worker_per_gpu'] = workers
        root = tmp_path / method
        log = tmp_path / f'{method}.log'
        path = write_options(tmp_path / f'{method}.yml', options)
        codes = finish(start(_tune_by, method, path, root, log))
        assert codes == [0], log.read_text()
        written[method] = (root / 'experiments' / 'tiny' / 'models' / 'net_g_latest.safetensors').read_bytes()
    assert written['spawn'] == written['fork'] == written['forkserver']


@pytest.mark.parametrize('name', ['my.py', 'a/b/my.py', 'a_b/my.py', 'a b/my.net.py', 'größe/π.py', '_2f.py'])
def test_a_plug_in_file_has_a_name_of_its_own_that_leads_back_to_it(name: str, tmp_path: Path):
    from importlib.util import find_spec

    path = tmp_path / name
    found = find_spec(module_name(path))
    assert found is not None
    assert found.origin == str(path)
    assert all(part.isidentifier() for part in found.name.split('.'))
