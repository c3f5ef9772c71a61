"""The keys that option files may have, their types, and what they are when they are not given."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from sptsr.core.values import Range

Types = tuple[Any, ...]  # hints of which a value fits one (see `sptsr.core.values.misfit`)
_NONE = type(None)
_COUNT = Annotated[int, Range(1, 10**9)]
_PRECISION = Literal['fp32', 'bf16', 'fp16']

_NO_GAN = 'there is no adversarial training here; remove it'
# Keys of BasicSR's files that have no meaning here: what to do.
FOREIGN = {
    **dict.fromkeys(('network_d', 'optim_d', 'pretrain_network_d', 'param_key_d', 'strict_load_d'), _NO_GAN),
    **dict.fromkeys(('net_d_iters', 'net_d_init_iters', 'net_d_start_iter', 'net_g_start_iter'), _NO_GAN),
    'ignore_resume_networks': 'a run goes on with all that it had; remove it',
}
TOP: dict[str, Types] = {
    'name': (str,),
    'model_type': (str,),
    'scale': (Annotated[int, Range(1, 64)],),
    'num_gpu': (Annotated[int, Range(0, 4096)], Literal['auto']),
    'manual_seed': (Annotated[int, Range(0, 2**32 - 1)], _NONE),
    'plugins': (list,),
    'datasets': (dict,),
    'network_g': (dict,),
    'path': (dict, _NONE),
    'train': (dict,),
    'val': (dict, _NONE),
    'logger': (dict,),
    'dist_params': (dict,),
    'find_unused_parameters': (bool,),  # BasicSR's; nothing is unused here
}
PATH: dict[str, Types] = {
    'pretrain_network_g': (str, _NONE),
    'strict_load_g': (bool,),
    'param_key_g': (str, _NONE),
    'resume_state': (str, _NONE),
}
TRAIN: dict[str, Types] = {
    'total_iter': (_COUNT,),
    'warmup_iter': (Annotated[int, Range(-1, 10**9)],),
    'ema_decay': (Annotated[float, Range(0, 1)],),
    'optim_g': (dict,),
    'scheduler': (dict,),
    'pixel_opt': (dict, _NONE),
    'stay_opt': (dict, _NONE),
    'precision': (_PRECISION,),
    'channels_last': (bool,),
    'compile': (bool,),
    'checkpoint': (bool,),
    'accumulate': (Annotated[int, Range(1, 4096)],),
    'clip_grad_norm': (float, _NONE),
}
# Arguments of BasicSR's schedulers, which would pass over entries of other types without a word.
_ITERATIONS = list[Annotated[int, Range(0, 10**9)]]
SCHEDULES: dict[str, Any] = {
    'milestones': _ITERATIONS,
    'restarts': _ITERATIONS,
    'periods': list[Annotated[int, Range(1, 10**9)]],
    'restart_weights': list[float],
}
VAL: dict[str, Types] = {
    'val_freq': (_COUNT,),
    'save_img': (bool,),
    'suffix': (str, _NONE),
    'pbar': (bool,),
    'metrics': (dict, _NONE),
    'tile': (Annotated[int, Range(1, 2**20)], _NONE),
    'tile_overlap': (Annotated[int, Range(0, 2**20)],),
    'bands': (dict, _NONE),
}
LOGGER: dict[str, Types] = {
    'print_freq': (_COUNT,),
    'save_checkpoint_freq': (_COUNT,),
    'keep_last': (_COUNT, _NONE),
    'use_tb_logger': (bool,),
    'tb_pictures': (Annotated[int, Range(0, 1000)],),
    'wandb': (dict, _NONE),
}
WANDB: dict[str, Types] = {'project': (str, _NONE), 'resume_id': (str, _NONE)}
DIST: dict[str, Types] = {'backend': (Literal['nccl', 'gloo'],), 'port': (Annotated[int, Range(1, 65535)],)}
_SIDE = Annotated[int, Range(1, 65536)]
_CHANNELS = list[float]
# Keys that BasicSR's own paired datasets read; they check nothing themselves.
STOCK_DATASET: dict[str, Types] = {
    'name': (str,),
    'type': (str,),
    'dataroot_gt': (str,),
    'dataroot_lq': (str,),
    'filename_tmpl': (str,),
    'meta_info_file': (str, _NONE),
    'io_backend': (dict,),
    'gt_size': (_SIDE, _NONE),
    'use_hflip': (bool,),
    'use_rot': (bool,),
    'color': (str, _NONE),
    'mean': (_CHANNELS, _NONE),
    'std': (_CHANNELS, _NONE),
    'batch_size_per_gpu': (_SIDE,),
    'num_worker_per_gpu': (Annotated[int, Range(0, 1024)],),
    'dataset_enlarge_ratio': (_SIDE,),
    'prefetch_mode': (str, _NONE),
    'num_prefetch_queue': (_SIDE, _NONE),
    'pin_memory': (bool,),
    'persistent_workers': (bool,),
}
STOCK_NEEDS = ('dataroot_gt', 'dataroot_lq', 'io_backend')
STOCK_TRAIN_NEEDS = ('gt_size', 'use_hflip', 'use_rot')
# Keys of a metric's section beside its arguments, and arguments that BasicSR's metrics do not check.
METRIC: dict[str, Types] = {'better': (Literal['higher', 'lower'],), 'crop_border': (Annotated[int, Range(0, 65536)],)}
LAUNCHERS = ('none', 'pytorch', 'slurm')

TRAIN_DEFAULTS: dict[str, Any] = {
    'warmup_iter': -1,
    'ema_decay': 0.0,
    'precision': 'fp32',
    'channels_last': False,
    'compile': False,
    'checkpoint': False,
    'accumulate': 1,
    'clip_grad_norm': None,
}
VAL_DEFAULTS: dict[str, Any] = {
    'save_img': False,
    'suffix': None,
    'pbar': True,
    'metrics': None,
    'tile': None,
    'tile_overlap': 32,
    'bands': None,
}
LOGGER_DEFAULTS: dict[str, Any] = {
    'print_freq': 100,
    'save_checkpoint_freq': 1000,
    'keep_last': None,
    'use_tb_logger': False,
    'tb_pictures': 2,
    'wandb': None,
}

# What each key means, by section; '' is the top level. `sptsr options --schema` and the docs show it.
TEXTS: dict[str, dict[str, str]] = {
    '': {
        'base': 'another option file, relative to this one; it is read first and overridden key by key.',
        'name': 'of the run; names its folder below `experiments/` or `results/`.',
        'model_type': '`SPTModel`.',
        'scale': 'size of GT over size of LQ; 1 where they are of one size.',
        'num_gpu': '`auto` takes a GPU where there is one; 0 for the CPU. For more, start several processes.',
        'manual_seed': 'of everything random in the run; 0 unless given.',
        'plugins': 'files (`./my_net.py`) and modules that register networks, units, datasets or losses of your own.',
        'datasets': 'the sets of images.',
        'network_g': 'the network.',
        'path': 'files that the run begins with.',
        'train': 'how the adapter is trained; only for training.',
        'val': 'how images are restored and measured, in training and in a test.',
        'logger': 'what is shown, and how often adapters and states are saved.',
        'dist_params': 'how several processes talk to each other.',
        'find_unused_parameters': "accepted from BasicSR's files and not needed.",
    },
    # Of a network that was not written for sptsr, beside its own arguments (see `sptsr.options.calling`).
    'network': {
        'input': '`{range: 255, mean: [r, g, b]}`: white of its images, and what it subtracts from them itself.',
        'output': 'which entry of the list or tuple that it returns is the image, counted from 0.',
        'size_multiple': 'height and width of its input must be multiples of this; images are padded and cut back.',
    },
    'path': {
        'pretrain_network_g': 'adapter of an `SPTNet`, or weights of another network.',
        'strict_load_g': "`true`, as in BasicSR's files: weights are always loaded strictly.",
        'param_key_g': 'entry of the file to load, such as `params` or `params_ema`; by default the average.',
        'resume_state': 'training state to go on from; by default the newest one of the run.',
    },
    'train': {
        'total_iter': 'iterations of the run.',
        'warmup_iter': 'the learning rate rises from zero over so many iterations; -1 for none.',
        'ema_decay': 'decay of the moving average of the adapter, buffers included, after a warm-up; 0 for none.',
        'optim_g': 'optimiser: `{type: NAME, lr: 1e-3, …}`, any of `torch.optim` that makes one plain step.',
        'scheduler': "learning rate: `{type: NAME, …}`, BasicSR's or any of torch whose arguments are plain values.",
        'pixel_opt': 'loss: `{type: NAME, …}`.',
        'stay_opt': "loss between the output and the frozen network's, such as `{type: L1Loss, loss_weight: 0.1}`.",
        'precision': 'of the forward pass; the adapter and both ends of the backbone stay fp32. `fp16` has a scaler.',
        'channels_last': 'memory layout of features; usually faster on a GPU.',
        'compile': '`torch.compile` of the network.',
        'checkpoint': 'run blocks of the backbone again in the backward pass instead of keeping what they computed.',
        'accumulate': 'batches of an iteration; their gradients are averaged, and memory is that of one.',
        'clip_grad_norm': "largest norm of the adapter's gradient.",
    },
    'val': {
        'val_freq': 'iterations from one validation to the next.',
        'save_img': 'write the restored images as PNG.',
        'suffix': 'end of the names of images that a test writes.',
        'pbar': 'show a progress bar.',
        'metrics': 'what is measured, by a name of your choice.',
        'tile': 'tiles have at most the pixels of a square of this side, in LQ pixels, with its margins; empty: whole.',
        'tile_overlap': 'how far neighbouring tiles overlap, in LQ pixels.',
        'bands': '`{SET: STORE}`: PSNR along the boundaries of these masks, inside them, and by their area as well.',
    },
    'logger': {
        'print_freq': 'iterations from one line of the log to the next.',
        'save_checkpoint_freq': 'iterations from one saved adapter and state to the next.',
        'keep_last': 'keep so many states and numbered adapters; the latest and the best stay; empty keeps all.',
        'use_tb_logger': 'write TensorBoard files below `tb_logger/`.',
        'tb_pictures': 'images of each validation set that TensorBoard shows, with their masks.',
        'wandb': 'send what TensorBoard gets to Weights & Biases, where it is installed.',
    },
    'logger.wandb': {
        'project': 'its name; empty switches wandb off.',
        'resume_id': 'run to go on with.',
    },
    'dist_params': {
        'backend': '`nccl` by default where the run is on GPUs, else `gloo`.',
        'port': 'where ranks that slurm started meet.',
    },
}
