"""What `make install` brings, and the script that makes the wheel of BasicSR."""

import importlib.metadata
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from sptsr.commands import doctor

SCRIPT = Path(__file__).parents[1] / 'scripts' / 'build_basicsr.py'


def _build(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_another_archive_is_refused_and_leaves_nothing(tmp_path: Path):
    archive = tmp_path / 'basicsr-1.4.2.tar.gz'
    with tarfile.open(archive, 'w:gz') as tar:
        tar.add(SCRIPT, '../../basicsr/evil.py')
    done = _build('-o', tmp_path / 'out', '--sdist', archive)
    assert done.returncode == 1
    assert done.stderr.startswith(
        'build_basicsr.py: the archive is not the basicsr-1.4.2.tar.gz of the index: its sha256'
    )
    assert done.stderr.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_a_missing_archive_is_named(tmp_path: Path):
    done = _build('--sdist', tmp_path / 'no.tar.gz')
    assert (done.returncode, done.stderr.count('\n')) == (1, 1)
    assert 'no.tar.gz: no such file' in done.stderr


def test_the_wheel_that_the_script_makes_is_installed():
    """Stock BasicSR 1.4.2 needs tb-nightly, and distutils, which Python 3.12 removed."""
    installed = importlib.metadata.distribution('basicsr')
    assert installed.version == '1.4.2+sptsr.1'
    names = {Requirement(text).name for text in installed.requires or ()}
    assert 'tensorboard' in names
    assert 'tb-nightly' not in names
    sources = [Path(str(path.locate())) for path in installed.files or () if path.suffix == '.py']
    assert len(sources) == 90
    assert [path for path in sources if re.search(r'^\s*(from|import) distutils', path.read_text(), re.M)] == []


def test_the_doctor_names_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch):
    versions = {'torch': '2.3.1', 'basicsr': None, 'tqdm': '4.0'}

    def version(name: str) -> str:
        found = versions.get(name, importlib.metadata.version(name))
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(doctor, 'version', version)
    monkeypatch.setattr(doctor, '_PROBES', {})
    lines, well = doctor.diagnose()
    assert not well
    wrong = [line for line in lines if 'missing:' in line or ' is not ' in line]
    assert [line.split()[0] for line in wrong] == ['basicsr', 'torch', 'tqdm']
    assert 'scripts/build_basicsr.py' in wrong[0]
    assert '2.3.1 is not >=2.8: pip install --force-reinstall torch torchvision' in wrong[1]
    assert 'pip install "tqdm>=' in wrong[2]


def test_the_doctor_and_the_metadata_agree_on_the_oldest_python():
    oldest = '.'.join(map(str, doctor._OLDEST_PYTHON))
    assert importlib.metadata.metadata('sptsr')['Requires-Python'] == f'>={oldest}'
