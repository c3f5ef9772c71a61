"""Takes over trainings that were made by hand: `sptsr train` with options that a run of a study has, too."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError
from sptsr.core.files import sha256_json, write_bytes
from sptsr.core.homes import expanded
from sptsr.core.plugin_files import file_of, neighbours
from sptsr.core.yaml_io import read_yaml
from sptsr.options.tune import WITH_UNITS
from sptsr.study.digests import Digests
from sptsr.study.identity import identity, training_record
from sptsr.study.runs import Run
from sptsr.tuning.adapter_files import latest_file

_LOG = re.compile(r'_(\d{8}_\d{6})\.log$')


def take_over(runs: Sequence[Run], experiments: Path, digests: Digests) -> list[tuple[Run, Path]]:
    """Copies the adapters of finished trainings below `experiments/` that are runs of a study.

    Such a training has the options of the run but for names and what is shown, was never gone on with by other options,
    and what it trained with has not changed since it began.

    Args:
        runs: of the study; those that are trained are passed over.
        experiments: folder of trainings.
        digests: of files and folders.

    Returns:
        the runs that are now trained, each with the folder that its adapter is from.
    """
    wanted = {run.id: run for run in runs if not run.trained}
    taken = []
    for home in sorted(models.parent for models in experiments.glob('*/models')) if wanted else ():
        adapter = latest_file(home / 'models')
        if not adapter.is_file():
            continue
        run_id = _identity_of(home, digests)
        if run_id in wanted:
            run = wanted.pop(run_id)
            run.prepare(by_hand=True)
            write_bytes(run.adapter, adapter.read_bytes())
            taken.append((run, home))
    return taken


def _identity_of(home: Path, digests: Digests) -> str | None:
    """Returns the digest of what a training is; None where that cannot be known."""
    files = list(home.glob('*.yml'))
    if len(files) != 1:
        return None
    try:
        opt, _ = read_yaml(files[0])
        if not _is_finished(home, opt) or _newest(opt) > _begun(home):
            return None
        return identity(training_record({**opt, 'manual_seed': opt.get('manual_seed') or 0}, digests, {}))
    except (UserError, KeyError, TypeError, AttributeError, OSError):  # a folder that holds something else
        return None


def _is_finished(home: Path, opt: Mapping[str, Any]) -> bool:
    """Returns whether a training ended with these options, and had no others before."""
    from sptsr.archs.recipes import rules_told  # seconds
    from sptsr.tuning.states import read_state

    state = read_state(home / 'training_states' / f'{opt["train"]["total_iter"]}.state')
    digest = sha256_json(opt)
    network = opt['network_g']
    has_units = network.get('tune', 'adapter') in WITH_UNITS
    if has_units and rules_told({**network, 'rules': state['rules']}) != rules_told(network):  # by an older sptsr
        return False
    return state['options_sha256'] == digest and state.get('history') == {'changed': False, 'processes': 1}


def _begun(home: Path) -> float:
    """Returns when a training was first started, by the names of its logs; raises UserError where it has none."""
    times = [found[1] for path in home.glob('train_*.log') if (found := _LOG.search(path.name))]
    if not times:
        raise UserError(f'{home}: no log')
    return time.mktime(time.strptime(min(times), '%Y%m%d_%H%M%S'))


def _newest(opt: Mapping[str, Any]) -> float:
    """Returns when a file that the options name was changed last."""
    data, network = opt['datasets']['train'], opt['network_g']
    paths = [value for key, value in data.items() if key.startswith('dataroot_') or key.endswith('_file')]
    plugins = [plugin[0] for plugin in map(file_of, opt.get('plugins') or []) if plugin]
    paths += [network.get('backbone_weights'), *plugins]
    paths += [str(file) for plugin in plugins if Path(plugin).is_file() for file in neighbours(Path(plugin))]
    newest = 0.0
    for path in paths:
        if isinstance(path, str) and Path(expanded(path)).exists():
            root = Path(expanded(path))
            files = [root] if root.is_file() else [file for file in root.rglob('*') if _counts(file)]
            newest = max([newest, *(os.stat(file).st_mtime for file in files)])
    return newest


def _counts(path: Path) -> bool:
    return path.is_file() and path.suffix not in ('.lock',) and path.name != 'lock.mdb'
