"""Python starts workers by fork, spawn or forkserver; the last is the default of Python 3.14 on Linux."""

import multiprocessing
from pathlib import Path

from tests.conftest import base_options, write_options
from tests.core.test_plugin_files import PROJECT, project
from tests.tuning.processes import finish, start, tune

PLUGIN = """
from basicsr.archs.arch_util import half  # the project's own
from basicsr.utils.registry import DATASET_REGISTRY
from blocks import Base


@DATASET_REGISTRY.register()
class DarkerDataset(Base):
    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return {**sample, 'lq': half(sample['lq'])}
"""


def _tune_by(method: str, path: Path, root: Path, log: Path) -> None:
    multiprocessing.set_start_method(method, force=True)
    tune(path, root, log)


def test_a_dataset_from_a_plug_in_file_trains_under_every_start_method(
    photographs: Path, tiny_weights: Path, tmp_path: Path
):
    # a path with what a module's name cannot hold, and a name that no other module may get in the way of
    blocks = 'from sptsr.data.paired import PriorPairedImageDataset as Base\n'
    files = {'random.py': PLUGIN, 'blocks.py': blocks, **PROJECT}
    plugin = project(tmp_path / 'größe 2.0', files) / 'random.py'
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
    codes = finish(start(tune, path, tmp_path / 'ranks', world=2, launcher='pytorch'))  # as under torchrun
    assert codes == [0, 0]
