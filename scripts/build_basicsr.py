#!/usr/bin/env python3
"""Builds a wheel of BasicSR 1.4.2 that installs on Python 3.10 and later.

    python scripts/build_basicsr.py -o DIR                # downloads the source archive through pip
    python scripts/build_basicsr.py -o DIR --sdist FILE   # offline: an archive that is there already
    pip install --find-links DIR basicsr==1.4.2

The package index has BasicSR as a source archive only, which does not build everywhere: `get_version` in its `setup.py`
ends in `KeyError: '__version__'` on Python 3.13 and later, `setup_requires` downloads a second torch, and the
requirements name `tb-nightly`, which occupies the same files as `tensorboard`. This script never runs that `setup.py`.
It checks the archive's sha256, makes the changes that `_CHANGES` and `_REQUIREMENTS` list, and writes the wheel, the
same bytes each time. The optional CUDA extensions are not built; BasicSR does without them.

The wheel's version is 1.4.2+sptsr.1: it satisfies `basicsr==1.4.2`, and pip prefers it to the index's archive.

Needs nothing but the standard library, and pip for the download. `pip download` obeys the user's own settings (index,
proxy, certificates).
"""

from __future__ import annotations

import argparse
import base64
import email
import email.policy
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

_STEM = 'basicsr-1.4.2'
_SHA256 = 'b89b595a87ef964cda9913b4d99380ddb6554c965577c0c10cb7b78e31301e87'
_VERSION = '1.4.2+sptsr.1'
_DATE = (2022, 8, 30, 0, 0, 0)  # of the release: a build's time in the archive would make each build another file

# (file, text that occurs in it once, text that replaces it)
_CHANGES = [
    (
        'basicsr/archs/arch_util.py',
        'from distutils.version import LooseVersion\n',
        '# Changed by scripts/build_basicsr.py of sptsr: Python 3.12 removed distutils.\n'
        'from packaging.version import Version as LooseVersion\n',
    ),
]
# Requirement of the archive -> the one that replaces it. `packaging` is for the change above.
_REQUIREMENTS = {'tb-nightly': 'tensorboard>=2.21'}
_ADDED_REQUIREMENTS = ['packaging']

_WHEEL = b"""Wheel-Version: 1.0
Generator: build_basicsr.py
Root-Is-Purelib: true
Tag: py3-none-any
"""

# `pip download` asks the build backend for the archive's metadata before it keeps the archive. An archive without
# pyproject.toml has the backend `setuptools.build_meta:__legacy__`, which would run setup.py; this one, put before the
# real one on PYTHONPATH, answers without.
_BACKEND = f"""
import pathlib


class __legacy__:
    def get_requires_for_build_wheel(config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = pathlib.Path(metadata_directory, '{_STEM}.dist-info')
        folder.mkdir()
        (folder / 'METADATA').write_text('Metadata-Version: 2.1\\nName: basicsr\\nVersion: 1.4.2\\n')
        return folder.name
"""


class _BuildError(Exception):
    """What is wrong, and what to do, in one line."""


def main() -> None:
    """Builds the wheel and prints its path; a failure is one line and exit code 1."""
    parser = argparse.ArgumentParser(description='Builds a wheel of BasicSR 1.4.2 that installs on Python >= 3.10.')
    parser.add_argument(
        '-o', dest='folder', type=Path, default='dist', metavar='DIR', help='of the wheel (default: dist)'
    )
    parser.add_argument('--sdist', type=Path, metavar='FILE', help=f'{_STEM}.tar.gz; without it, pip downloads it')
    arguments = parser.parse_args()
    try:
        archive = _read(arguments.sdist) if arguments.sdist else _download()
        if (found := hashlib.sha256(archive).hexdigest()) != _SHA256:
            raise _BuildError(
                f'the archive is not the {_STEM}.tar.gz of the index: its sha256 is {found}, not {_SHA256}'
            )
        print(build(archive, arguments.folder))
    except (_BuildError, OSError) as error:
        sys.exit(f'build_basicsr.py: {error}')


def build(archive: bytes, folder: Path) -> Path:
    """Writes the wheel into `folder` and returns its path.

    Args:
        archive: content of the source archive. It is read in memory; nothing is unpacked.
        folder: made where it is missing. A wheel of the same name is replaced.
    """
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        sources = {m.name.partition('/')[2]: tar.extractfile(m).read() for m in tar.getmembers() if m.isfile()}
    files = {name: content for name, content in sources.items() if name.startswith('basicsr/')}
    for name, old, new in _CHANGES:
        text = files[name].decode()
        if text.count(old) != 1:
            raise _BuildError(f'{name} has no single {old!r}; this script is for BasicSR 1.4.2')
        files[name] = text.replace(old, new).encode()
    information = f'basicsr-{_VERSION}.dist-info'
    files |= {
        f'{information}/METADATA': _metadata(sources),
        f'{information}/WHEEL': _WHEEL,
        f'{information}/top_level.txt': b'basicsr\n',
        f'{information}/LICENSE.txt': sources['LICENSE.txt'],
    }
    record = [f'{name},sha256={_digest(content)},{len(content)}' for name, content in files.items()]
    record.append(f'{information}/RECORD,,')
    files[f'{information}/RECORD'] = '\n'.join([*record, '']).encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f'basicsr-{_VERSION}-py3-none-any.whl'
    unfinished = wheel.with_suffix(f'.{os.getpid()}.tmp')
    try:
        with zipfile.ZipFile(unfinished, 'w', zipfile.ZIP_DEFLATED) as out:
            for name, content in files.items():
                entry = zipfile.ZipInfo(name, _DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                out.writestr(entry, content)
        unfinished.replace(wheel)
    finally:
        unfinished.unlink(missing_ok=True)
    return wheel


def _metadata(sources: dict[str, bytes]) -> bytes:
    """Returns the wheel's METADATA: the archive's with our version, requirements, and the changes as description."""
    metadata = email.message_from_bytes(sources['PKG-INFO'], policy=email.policy.compat32)
    del metadata['Description'], metadata['Description-Content-Type'], metadata['Platform']
    metadata.replace_header('Version', _VERSION)
    metadata['Description-Content-Type'] = 'text/plain'
    requirements = [_REQUIREMENTS.get(line, line) for line in sources['requirements.txt'].decode().split()]
    for requirement in [*requirements, *_ADDED_REQUIREMENTS]:
        metadata['Requires-Dist'] = requirement
    changed = ', '.join(name for name, _, _ in _CHANGES)
    required = ', '.join(f'{old} -> {new}' for old, new in _REQUIREMENTS.items())
    metadata.set_payload(
        f'BasicSR 1.4.2, built by scripts/build_basicsr.py of sptsr.\n'
        f'Changed files: {changed}. Changed requirements: {required}; added: {", ".join(_ADDED_REQUIREMENTS)}.\n'
    )
    return metadata.as_bytes()


def _digest(content: bytes) -> str:
    """Returns a file's sha256 as RECORD writes it (PEP 376): URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise _BuildError(f'{path}: no such file; without --sdist, pip downloads it')
    return path.read_bytes()


def _download() -> bytes:
    """Returns the content of the index's source archive, downloaded by pip without running its `setup.py`."""
    with tempfile.TemporaryDirectory() as folder:
        backend = Path(folder, 'backend', 'setuptools')
        backend.mkdir(parents=True)
        (backend / '__init__.py').touch()
        (backend / 'build_meta.py').write_text(_BACKEND)
        search = os.pathsep.join(filter(None, [str(backend.parent), os.environ.get('PYTHONPATH')]))
        command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', '--no-deps']
        command += ['--no-binary', 'basicsr', '--no-build-isolation', '--use-pep517', '-d', folder, 'basicsr==1.4.2']
        done = subprocess.run(command, env=os.environ | {'PYTHONPATH': search}, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().rpartition('\n')[2]
            raise _BuildError(f'pip could not download basicsr==1.4.2 ({reason}); give the archive with --sdist FILE')
        return Path(folder, f'{_STEM}.tar.gz').read_bytes()


if __name__ == '__main__':
    main()
