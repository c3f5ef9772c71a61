"""What a second run of `sptsr restore` keeps, and files of strangers that must not end or fool it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sptsr
from sptsr.archs.adapter import save_adapter
from sptsr.archs.attach import load
from sptsr.core.errors import UserError
from sptsr.images.any_image import AnyImage, read_any, write_any
from sptsr.restoring.result_files import Journal
from tests.conftest import photograph, run_cli, write_options
from tests.restoring.folders import ARGUMENTS, restore


def _bytes(photos: Path) -> bytes:
    return (photos.parent / 'out' / 'cat.png').read_bytes()


def test_a_result_of_other_settings_is_made_again_also_when_it_was_there_before_those(photos: Path):
    first = restore(photos)
    assert '5 images restored' in first.stdout
    plain = _bytes(photos)
    assert '5 images restored' in restore(photos, '--self-ensemble').stdout
    assert _bytes(photos) != plain
    assert '5 images restored' in restore(photos).stdout
    assert _bytes(photos) == plain
    assert '0 images restored, 5 were there' in restore(photos).stdout


def test_an_image_that_changes_and_changes_back_is_made_again(photos: Path):
    before = (photos / 'cat.png').read_bytes()
    restore(photos)
    expected = _bytes(photos)
    Image.fromarray(photograph('rocket.jpg', 20, 28)).save(photos / 'cat.png')
    restore(photos)
    (photos / 'cat.png').write_bytes(before)
    assert '1 image restored, 4 were there' in restore(photos).stdout
    assert _bytes(photos) == expected


def test_another_tile_makes_results_again(photos: Path):
    restore(photos, '--tile', 8)
    assert '5 images restored' in restore(photos, '--tile', 0).stdout
    assert '0 images restored, 5 were there' in restore(photos, '--tile', 0).stdout


def test_one_image_that_a_format_cannot_hold_does_not_stop_the_others(photos: Path):
    Image.fromarray(np.zeros((1, 4200, 3), np.uint8)).save(photos / 'a_wide.png')
    done = restore(photos, '--format', 'webp')
    assert done.returncode == 1, done.stderr
    assert 'a_wide.webp: cannot be written as webp' in done.stderr
    assert '5 images restored' in done.stdout
    assert not (photos.parent / 'out' / 'a_wide.webp').exists()


def test_damaged_files_of_any_kind_are_named(tmp_path: Path):
    rng = np.random.default_rng(0)
    picture = Image.fromarray(photograph('chelsea.png', 24, 32))
    for suffix in ('tif', 'gif', 'webp', 'png', 'jpg', 'bmp'):
        path = tmp_path / f'a.{suffix}'
        picture.save(path)
        whole = path.read_bytes()
        for _ in range(60):
            content = bytearray(whole)
            for place in rng.integers(len(content), size=rng.integers(1, 9)):
                content[place] = rng.integers(256)
            path.write_bytes(content[: rng.integers(1, len(content) + 1)])
            error, image = None, None
            try:
                image = read_any(path, 10**6)
            except sptsr.UserError as found:
                error = str(found)
            assert (error or '').startswith(f'{path}: ') or image.colour.ndim == 3


def _net() -> sptsr.archs.spt_arch.SPTNet:
    return load(ARGUMENTS[1], weights=ARGUMENTS[3])


def test_an_adapter_names_no_file_of_code(photos: Path, tmp_path: Path):
    net, code = _net(), tmp_path / 'evil.py'
    code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    net.trained_with = {'prior': {'source': f'{code}:felzenszwalb', 'params': {}, 'weights_sha256': None}}
    sptsr.save(net, tmp_path / 'evil.safetensors')
    done = run_cli('restore', '-i', photos, '-o', tmp_path / 'o', '-a', tmp_path / 'evil.safetensors', *ARGUMENTS[2:4])
    assert done.returncode == 2
    assert 'say --source NAME' in done.stderr
    assert not (tmp_path / 'ran').exists()


def test_values_that_are_no_numbers_make_no_black_image(photos: Path, tmp_path: Path):
    net = _net()
    next(iter(net.adapter_parameters().values())).data.fill_(float('nan'))
    sptsr.save(net, tmp_path / 'nan.safetensors')
    given = [*ARGUMENTS[2:], '-a', tmp_path / 'nan.safetensors']
    done = run_cli('restore', '-i', photos / 'cat.png', '-o', tmp_path / 'o', *given)
    assert done.returncode == 1
    assert 'cat.png: restore: the network gives NaN or infinite values' in done.stderr
    assert not (tmp_path / 'o' / 'cat.png').exists()


def test_the_entry_that_the_option_file_names_is_taken(here: Path):
    import yaml

    options = yaml.safe_load(Path('test.yml').read_text())
    net = sptsr.archs.spt_arch.SPTNet(**{k: v for k, v in options['network_g'].items() if k != 'type'})
    for value in net.adapter_parameters().values():
        torch.nn.init.normal_(value, std=0.1)
    average = {name: value + 0.05 for name, value in net.adapter_state().items()}
    save_adapter('both.safetensors', net, net.options, 5, average)
    for key in ('params', 'params_ema'):
        options['path'] = {'pretrain_network_g': 'both.safetensors', 'param_key_g': key}
        write_options(Path(f'{key}.yml'), options)
        done = run_cli('restore', '-i', 'set/LRx4', '-o', key, '-opt', f'{key}.yml', '--prior', 'set/prior')
        assert done.returncode == 0, done.stderr
    with torch.no_grad():
        for name, value in net.adapter_parameters().items():
            value.copy_(average[name])
    sptsr.save(net, 'average.safetensors')
    arguments = ['-a', 'average.safetensors', '--prior', 'set/prior']
    assert run_cli('restore', '-i', 'set/LRx4', '-o', 'average', *arguments).returncode == 0
    made = {name: Path(name, 'coffee.png').read_bytes() for name in ('params', 'params_ema', 'average')}
    assert made['params_ema'] == made['average'] != made['params']


def test_a_source_that_sees_no_image_takes_no_network(here: Path):
    given = [*ARGUMENTS[:4], '--source', 'none', '--through', 'test.yml']
    done = run_cli('restore', '-i', 'set/LRx4', '-o', 'o', *given)
    assert done.returncode == 2
    assert done.stderr == 'sptsr: --through: none makes masks without looking at an image; leave it out\n'


@pytest.mark.parametrize('suffix', ['jpg', 'webp'])
def test_sides_that_a_format_does_not_hold(suffix: str, tmp_path: Path):
    wide = AnyImage(np.zeros((1, 70_000, 3), np.uint8))
    with pytest.raises(sptsr.UserError, match=f'cannot be written as {suffix}'):
        write_any(tmp_path / f'a.{suffix}', wide)
    assert list(tmp_path.iterdir()) == []


def test_what_another_process_made_meanwhile_is_there(tmp_path: Path):
    one, two = (Journal(tmp_path, {}, {name: Path(name) for name in ('a.png', 'b.png')}) for _ in range(2))
    target = tmp_path / 'a.png'
    assert not two.holds('a.png', 'digest', target)
    one.begin('a.png', 'digest', target)
    target.touch()
    one.note('a.png', 'digest', target)
    assert two.holds('a.png', 'digest', target)
    (tmp_path / 'b.png').touch()
    with pytest.raises(UserError, match=r'b\.png: is there, and not made by this command'):
        two.holds('b.png', 'digest', tmp_path / 'b.png')


def test_a_result_that_another_process_made_of_another_image_stays(tmp_path: Path):
    one, two = (Journal(tmp_path, {}, {'a.png': Path(name)}) for name in ('here/a.png', 'there/a.png'))
    target = tmp_path / 'a.png'
    assert not one.holds('a.png', 'digest', target)  # read ahead, while the image before it is restored
    two.begin('a.png', 'other', target)
    target.touch()
    two.note('a.png', 'other', target)
    with pytest.raises(UserError, match='there/a.png; choose another folder'):
        one.begin('a.png', 'digest', target)
    two.begin('a.png', 'other', target)  # one's own is made again


def test_results_of_another_command_below_the_folder_are_no_images(photos: Path):
    assert '5 images restored' in restore(photos, out=f'{photos.name}/x4').stdout
    assert '5 images restored' in restore(photos, out=f'{photos.name}/again').stdout
    again = run_cli('restore', '-i', photos / 'x4', '-o', photos.parent / 'twice', *ARGUMENTS)
    assert '5 images restored' in again.stdout, again.stderr  # to restore results is one's own choice
