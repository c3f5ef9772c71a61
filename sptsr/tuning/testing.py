"""The evaluation pipeline: `sptsr test -opt X.yml`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.utils import get_time_str, set_random_seed

from sptsr.core import logs
from sptsr.core.distributed import start_ranks
from sptsr.core.files import write_json
from sptsr.data.loader import eval_loader
from sptsr.evaluation.evaluate import Results, to_json
from sptsr.options.load import load_options


def test_pipeline(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] = '.',
    force: Sequence[str] = (),
    quiet: bool = False,
    launcher: str = 'none',
) -> dict[str, Results]:
    """Evaluates a network as an option file says and writes `results/<name>/metrics.json`.

    Args:
        path: the option file.
        root: where `results/` goes.
        force: `--force_yml` entries.
        quiet: log lines go to the log file only.
        launcher: with `pytorch` or `slurm`, the ranks share the images; all get the results.

    Returns:
        the results of each dataset by its name.

    Raises:
        UserError: any mistake in options, data or weights; `metrics.json` is written only at the end.
    """
    options = load_options(path, False, root, force)
    opt = options.opt
    ranks = start_ranks(launcher, opt.get('dist_params'), cuda=opt['num_gpu'] > 0)
    try:
        opt.update(dist=ranks.world > 1, rank=ranks.rank, world_size=ranks.world)
        set_random_seed(opt['manual_seed'])
        loaders = [eval_loader(build_dataset(data), ranks) for data in opt['datasets'].values()]
        model: Any = build_model(opt)
        home = Path(opt['path']['results_root'])
        file = home / f'test_{opt["name"]}_{get_time_str()}.log' if ranks.first else None
        logs.setup(file, warnings_only=quiet or not ranks.first)
        for loader in loaders:
            model.validation(loader, opt['name'], None, opt['val']['save_img'])
    finally:
        ranks.close()
    results: dict[str, Results] = model.validation_results
    if ranks.first:
        record = {
            'name': opt['name'],
            'options_sha256': options.sha256,
            'datasets': {name: to_json(metrics) for name, metrics in results.items()},
            'params': model.parameter_counts(),
        }
        write_json(home / 'metrics.json', record)
        logs.get().info('Wrote %s', home / 'metrics.json')
    return results
