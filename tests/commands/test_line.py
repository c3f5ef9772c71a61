"""A mistake of the user: one line that names it and the remedy, exit code 2, nothing half-written."""

import argparse
from pathlib import Path

import pytest

from sptsr.commands.line import build_parser, main
from sptsr.images.folder import ImageFolder
from tests.conftest import run_cli, run_process
from tests.malformed_files import corrupt, gray


def _one_line(capsys: pytest.CaptureFixture[str], match: str) -> None:
    import re

    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('sptsr')]
    assert len(lines) == 1, lines
    assert re.search(match, lines[0]), lines[0]


def test_scales_must_agree(here: Path, capsys: pytest.CaptureFixture[str]):
    force = ['--force_yml', 'network_g:backbone_weights=~', 'network_g:backbone:upscale=2']
    assert main(['test', '-opt', 'test.yml', *force]) == 2
    _one_line(capsys, 'scale: 4, but IMDN as configured gives x2; make them agree')
    bare = ['--force_yml', 'network_g={type: IMDN, nf: 16, upscale: 2}']
    assert main(['test', '-opt', 'test.yml', *bare]) == 2
    _one_line(capsys, 'the network gives 64x80 for a GT of 128x160; make scale and network_g agree')


def test_an_unwritable_root_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(['test', '-opt', 'test.yml', '--root', 'train.yml']) == 2
    _one_line(capsys, r'train\.yml.*Not a directory; check the path')


def test_the_commands_of_the_readme_line(here: Path, capsys: pytest.CaptureFixture[str]):
    extract = ['prior', 'extract', '-i', 'set/LRx4', '-o', 'new', '--source', 'felzenszwalb', '--set', 'min_size=4']
    assert main(extract) == 0
    assert main(extract) == 0
    assert 'new: 0 priors made, 4 were there' in capsys.readouterr().out
    assert main(['prior', 'info', 'new']) == 0
    assert 'felzenszwalb (scales=[25.0, 50.0, 100.0, 200.0]' in capsys.readouterr().out
    assert main(['prior', 'verify', 'new', '-i', 'set/LRx4']) == 0
    assert main(['prior', 'verify', 'new', '-i', 'set/GTx4']) == 1
    assert main(['prior', 'show', 'new', 'coffee', '-i', 'set/LRx4', '-o', 'shown']) == 0
    picture = ImageFolder(here / 'shown').read('coffee')
    assert picture.shape[0] > 400
    assert main(['train', '-opt', 'train.yml']) == 0
    adapter = 'experiments/tiny/models/net_g_latest.safetensors'
    capsys.readouterr()
    assert main(['test', '-opt', 'test.yml', '--force_yml', f'path:pretrain_network_g={adapter}']) == 0
    out = capsys.readouterr().out
    assert 'photographs' in out
    assert 'psnr' in out


@pytest.mark.parametrize('rank', ['', '3', 'x'])
def test_a_stray_rank_does_not_hide_the_table(here: Path, capsys, monkeypatch: pytest.MonkeyPatch, rank: str):
    monkeypatch.setenv('RANK', rank)
    bare = ['--force_yml', 'network_g={type: IMDN, nf: 16, upscale: 4}']
    assert main(['test', '-opt', 'test.yml', *bare]) == 0
    assert 'photographs' in capsys.readouterr().out


def test_masks_where_the_environment_has_empty_ranks(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('RANK', '')
    monkeypatch.setenv('WORLD_SIZE', '')
    assert main(['prior', 'extract', '-i', 'set/LRx4', '-o', 'new', '--source', 'none']) == 0


def test_an_adapter_for_other_weights_is_refused(here: Path, capsys: pytest.CaptureFixture[str]):
    assert main(['train', '-opt', 'train.yml']) == 0
    adapter = 'path:pretrain_network_g=experiments/tiny/models/net_g_latest.safetensors'
    capsys.readouterr()
    assert main(['test', '-opt', 'test.yml', '--force_yml', adapter, 'network_g:backbone_weights=~']) == 2
    _one_line(capsys, 'was trained for IMDN with the weights .*, and this backbone holds others')
    assert main(['test', '-opt', 'test.yml', '--force_yml', adapter, 'network_g:unit:width=4']) == 2
    _one_line(capsys, 'tensors do not fit')


def test_as_processes(here: Path):
    """The console script itself: exit codes and no traceback."""
    done = run_process('train', '-opt', 'nowhere.yml', cwd=here)
    assert (done.returncode, done.stderr.count('\n')) == (2, 1)
    assert 'Traceback' not in done.stderr
    version = run_process('--version', cwd=here)
    assert version.stdout.startswith('sptsr ')
    help_ = run_cli('--help', cwd=here)
    assert 'sptsr demo' in help_.stdout
    (here / 'broken.py').write_text('import nothing_here\n')
    done = run_cli('test', '-opt', 'test.yml', '--force_yml', 'plugins=[broken.py]', cwd=here)
    assert done.returncode == 2
    assert "plugins: broken.py: importing it failed (No module named 'nothing_here')" in done.stderr
    assert 'Traceback' in done.stderr  # the plugin's own, kept for its author


def test_files_are_utf8_whatever_the_locale(here: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in (('LC_ALL', 'C'), ('PYTHONCOERCECLOCALE', '0'), ('PYTHONUTF8', '0')):
        monkeypatch.setenv(name, value)
    done = run_process('options', '-opt', 'train.yml', cwd=here)
    assert done.returncode == 0, done.stderr
    assert 'ModulationUnit' in done.stdout


def test_a_bad_image_in_a_worker_is_one_line(here: Path):
    corrupt(here)
    done = run_cli('train', '-opt', 'train.yml', '--force_yml', 'datasets:train:num_worker_per_gpu=2', cwd=here)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith('sptsr')]
    assert len(errors) == 1
    assert errors[0].endswith('not a readable image (cut off); copy or make it again')
    assert 'Traceback' not in done.stderr


def test_to_rgb_takes_what_is_refused_otherwise(here: Path, capsys: pytest.CaptureFixture[str]):
    gray(here)
    assert main(['data', 'prepare', '-i', 'set/GTx4', '-o', 'out', '--scale', '4']) == 2
    _one_line(capsys, 'gray, but 8-bit RGB is needed')
    assert main(['data', 'prepare', '-i', 'set/GTx4', '-o', 'out', '--scale', '4', '--to-rgb']) == 0
    assert len(ImageFolder(here / 'out' / 'GTx4')) == 4


def test_debug_prints_the_traceback_of_a_mistake(here: Path, monkeypatch: pytest.MonkeyPatch):
    plain = run_cli('options', '-opt', 'none.yml', cwd=here)
    assert (plain.returncode, plain.stderr.count('\n')) == (2, 1)
    monkeypatch.setenv('SPTSR_DEBUG', '0')
    assert run_cli('options', '-opt', 'none.yml', cwd=here).stderr == plain.stderr
    before = run_cli('--debug', 'options', '-opt', 'none.yml', cwd=here)
    behind = run_cli('options', '-opt', 'none.yml', '--debug', cwd=here)
    monkeypatch.setenv('SPTSR_DEBUG', '1')
    for done in (before, behind, run_cli('options', '-opt', 'none.yml', cwd=here)):
        assert done.returncode == 2
        assert 'FileNotFoundError' in done.stderr  # the cause as well
        assert done.stderr.endswith(plain.stderr)


def test_an_unexpected_error_is_said_to_be_whose_it_is(here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / 'my_net.py').write_text(
        'from torch import nn\n'
        'from sptsr.registry import ARCH_REGISTRY, register\n\n'
        '@register(ARCH_REGISTRY)\n'
        'class BrokenNet(nn.Module):\n'
        '    def __init__(self):\n'
        "        raise KeyError('no such layer')\n"
    )
    forced = ['plugins=[my_net.py]', 'network_g={type: BrokenNet}']
    done = run_cli('test', '-opt', 'test.yml', '--force_yml', *forced, cwd=here)
    assert done.returncode == 2
    assert done.stderr.count('\n') == 1
    assert done.stderr.startswith(
        "sptsr: network: BrokenNet cannot be built (KeyError: 'no such layer'); it comes from "
    )
    assert 'my_net.py:7, which is not part of sptsr' in done.stderr
    debugged = run_cli('--debug', 'test', '-opt', 'test.yml', '--force_yml', *forced, cwd=here)
    assert "KeyError: 'no such layer'" in debugged.stderr
    assert debugged.stderr.endswith(done.stderr)
    monkeypatch.setattr('sptsr.options.listing.resolved', list.index)  # an error within no file of a user's
    done = run_cli('options', '-opt', 'test.yml', cwd=here)
    assert done.returncode == 3
    assert 'this looks like a fault of sptsr' in done.stderr.splitlines()[0]


def test_help_is_filled_to_the_terminal_and_examples_have_a_line_each(monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')

    def walk(parser: argparse.ArgumentParser):
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for below in action.choices.values():
                    yield from walk(below)

    parsers = list(walk(build_parser()))
    assert len(parsers) > 20
    for parser in parsers[1:]:
        before, examples, after = parser.format_help().partition('\nexamples:\n')
        _usage, *paragraphs = before.split('\n\n')  # usage is argparse's, which breaks groups of Python 3.11 nowhere
        assert max(map(len, '\n'.join(paragraphs).splitlines())) <= 80, parser.prog
        if examples:
            commands = after.strip().splitlines()
            assert all(line.strip().startswith('sptsr ') and line.count('sptsr ') == 1 for line in commands), (
                parser.prog
            )
