"""The folder of a run: who works in it, what it goes on from, and what is put aside."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from basicsr.utils import get_time_str

from sptsr.core.errors import UserError
from sptsr.core.files import remove_temporaries, write_text
from sptsr.core.locks import FolderLock
from sptsr.options.load import Options
from sptsr.tuning.adapter_files import is_finished
from sptsr.tuning.states import find_state, read_state


class RunFolder:
    """The folder of a run, in which one process at a time trains.

    Args:
        options: complete options.
        root: where `experiments/` and `tb_logger/` are.
        lock: of the folder, not held yet.

    Attributes:
        aside: where `prepare` put another run of this name.
    """

    def __init__(self, options: Options, root: Path, lock: FolderLock) -> None:
        opt = options.opt
        self.options = options
        self.home = lock.folder
        self.boards = root / 'tb_logger' / opt['name']
        self.lock = lock
        self.aside: Path | None = None

    def found_state(self, auto_resume: bool) -> dict[str, Any] | None:
        """Returns the state that the run goes on from; None starts anew.

        Raises:
            UserError: another process trains here, or a state that is named cannot be read or lies beyond the end.
        """
        if self.home.exists():
            self.lock.hold()
        opt = self.options.opt
        named, total = opt['path'].get('resume_state'), int(opt['train']['total_iter'])
        finished = is_finished(self.home / 'models', total)
        state = (
            read_state(Path(named))
            if named
            else find_state(self.home / 'training_states', self.options.sha256, total, auto_resume, finished)
        )
        if state and state['iter'] > total:
            raise UserError(
                f'{state["path"]}: is of iteration {state["iter"]}, beyond train.total_iter, {total}; '
                'raise that, or say --fresh to begin anew'
            )
        return state

    def prepare(self, anew: bool) -> None:
        """Makes the folder; what another run left there is put aside first where this one starts `anew`."""
        self.lock.hold()
        files = itertools.chain(self.home.glob('models/*.safetensors'), self.home.glob('training_states/*.state'))
        if anew and any(files):
            for folder in (self.home, self.boards):
                if folder.exists():
                    aside = folder.rename(f'{folder}_archived_{get_time_str()}')
                    self.aside = self.aside or aside
        for name in ('models', 'training_states'):
            (self.home / name).mkdir(parents=True, exist_ok=True)
            remove_temporaries(self.home / name)
        command = f'# {time.strftime("%Y-%m-%d %H:%M:%S")}: {" ".join(sys.argv)}\n'
        given = yaml.safe_dump(self.options.given, sort_keys=False)
        write_text(self.home / Path(self.options.path).name, command + given)
