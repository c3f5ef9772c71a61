"""Several threads restore with one network."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import sptsr
from tests.conftest import photograph
from tests.restoring.folders import small_denoiser


def test_the_mode_is_eval_until_the_last_call_and_then_what_it_was():
    net, image = small_denoiser(), photograph('coffee.png', 16, 24)
    prior = sptsr.make_prior(image, max_masks=5)
    expected = sptsr.restore(net.eval(), image, prior, sigma=15)
    first_is_in, second_is_done, modes = threading.Event(), threading.Event(), []

    def wait(*_: object) -> None:
        if threading.current_thread() is first:
            first_is_in.set()
            assert second_is_done.wait(60)
        modes.append(net.units[0].training)

    hook = net.units[0].register_forward_pre_hook(wait)
    results: list[np.ndarray] = []
    net.train()
    first = threading.Thread(target=lambda: results.append(sptsr.restore(net, image, prior, sigma=15)))
    first.start()
    assert first_is_in.wait(60)
    results.append(sptsr.restore(net, image, prior, sigma=15))
    second_is_done.set()
    first.join()
    hook.remove()
    assert modes == [False, False]
    assert all(np.array_equal(result, expected) for result in results)
    assert net.training
    assert net.units.training


def test_many_calls_leave_the_mode():
    net, image = small_denoiser().train(), photograph('coffee.png', 12, 16)
    prior = sptsr.make_prior(image, max_masks=5)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: sptsr.restore(net, image, prior, sigma=5), range(12)))
    assert all(np.array_equal(result, results[0]) for result in results)
    assert net.training
