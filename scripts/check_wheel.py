"""Builds the wheel of sptsr into `dist/` and tries it away from the checkout: `make wheel`.

It must hold every file of `sptsr/` and, put in front of all else, give its own modules, commands and assets.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Runs where sptsr is the wheel's: every module but the entry points that run at once.
_TRY = """
import importlib, pkgutil, sys
from pathlib import Path
import sptsr
assert Path(sptsr.__file__).parent == Path(sys.argv[1], 'sptsr'), sptsr.__file__
names = [module.name for module in pkgutil.walk_packages(sptsr.__path__, 'sptsr.')]
for name in names:
    importlib.import_module(name)
from sptsr.archs.weights import read_weights
from sptsr.commands.demo import WEIGHTS
read_weights(WEIGHTS)
print(f'{len(names)} modules import; the weights of the demo are read')
"""


def main() -> None:
    """Builds and tries the wheel; the first thing that is wrong ends it."""
    with tempfile.TemporaryDirectory() as folder:
        source, installed, empty = Path(folder, 'source'), Path(folder, 'installed'), Path(folder, 'empty')
        empty.mkdir()
        # A copy: `build/lib` of an earlier build would bring files that are gone.
        shutil.copytree(ROOT / 'sptsr', source / 'sptsr', ignore=shutil.ignore_patterns('__pycache__'))
        for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
            shutil.copy(ROOT / name, source)
        _run(sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir', folder, source)
        (wheel,) = Path(folder).glob('sptsr-*.whl')
        wanted = {path.relative_to(source).as_posix() for path in (source / 'sptsr').rglob('*') if path.is_file()}
        missing = wanted - set(zipfile.ZipFile(wheel).namelist())
        if missing:
            sys.exit(f'{wheel.name} lacks {", ".join(sorted(missing))}')
        _run(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', installed, wheel)
        away = {'cwd': empty, 'env': os.environ | {'PYTHONPATH': str(installed)}}
        _run(sys.executable, '-c', _TRY, installed, **away)
        _run(sys.executable, installed / 'bin' / 'sptsr', '--version', **away)
        (ROOT / 'dist').mkdir(exist_ok=True)
        shutil.copy(wheel, ROOT / 'dist')
        print(f'dist/{wheel.name}: {len(wanted)} files')


def _run(*command: object, **settings: object) -> None:
    if subprocess.run([str(word) for word in command], **settings).returncode:
        sys.exit(f'failed: {" ".join(str(word) for word in command[:3])} …')


if __name__ == '__main__':
    main()
