"""The evaluation pipeline: `sptsr test -opt X.yml`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sptsr.core import logs
from sptsr.core.files import write_json
from sptsr.evaluation.evaluate import has_gt
from sptsr.evaluation.records import Results, metrics_json
from sptsr.tuning.page_of_test import PageOfTest
from sptsr.tuning.startup import build_spt_model, eval_loaders, start_log, started


def test_pipeline(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] = '.',
    force: Sequence[str] = (),
    quiet: bool = False,
    launcher: str = 'none',
    report: bool = False,
) -> dict[str, Results]:
    """Evaluates a network as an option file says and writes `results/<name>/metrics.json`.

    Args:
        path: the option file. Images of a set without GT are written, whatever `val.save_img` says.
        root: where `results/` goes.
        force: `--force_yml` entries.
        quiet: log lines go to the log file only.
        launcher: with `pytorch` or `slurm`, the ranks share the images; all get the results.
        report: write `results/<name>/report.html` as well (see `sptsr.tuning.page_of_test`); without a launcher.

    Returns:
        the results of each dataset by its name.

    Raises:
        UserError: any mistake in options, data or weights; `metrics.json` is written only at the end.
    """
    with started(path, False, root, force, launcher) as (options, ranks, lock):
        opt = options.opt
        with ranks.together():
            loaders = eval_loaders(opt, ranks)
            model = build_spt_model(opt)
            if ranks.first:
                lock.hold()
        page = PageOfTest(model, loaders) if report else None
        start_log(opt, ranks, quiet=quiet)
        model.log_adapter()
        for loader in loaders:
            dataset: Any = loader.dataset
            bare = len(dataset) > 0 and not has_gt(dataset)  # nothing but the images to show for it
            if bare:
                folder = Path(opt['path']['visualization']) / dataset.opt['name']
                logs.get().info('%s: has no GT; the restored images go to %s', dataset.opt['name'], folder)
            model.validation(loader, opt['name'], None, opt['val']['save_img'] or bare, page and page.add)
        home = lock.folder
        results = model.validation_results
        if ranks.first:
            counts, saved = model.parameter_counts(), opt['val']['save_img']
            record = metrics_json(opt['name'], options.sha256, results, counts, model.adapter, saved)
            write_json(home / 'metrics.json', record)
            logs.get().info('Wrote %s', home / 'metrics.json')
            if page is not None:
                page.write(home / 'report.html')
                logs.get().info('Wrote %s', home / 'report.html')
    return results
