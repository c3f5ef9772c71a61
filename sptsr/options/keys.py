"""The keys that option files may have, their types, and what they are when they are not given."""

from __future__ import annotations

from typing import Any

Types = tuple[type, ...]
_NONE = type(None)

TOP: dict[str, Types] = {
    'name': (str,),
    'model_type': (str,),
    'scale': (int,),
    'num_gpu': (int, str),
    'manual_seed': (int,),
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
    'total_iter': (int,),
    'warmup_iter': (int,),
    'ema_decay': (float,),
    'optim_g': (dict,),
    'scheduler': (dict,),
    'pixel_opt': (dict,),
    'precision': (str,),
    'channels_last': (bool,),
    'compile': (bool,),
    'checkpoint': (bool,),
    'accumulate': (int,),
    'clip_grad_norm': (float, _NONE),
}
VAL: dict[str, Types] = {
    'val_freq': (int,),
    'save_img': (bool,),
    'suffix': (str, _NONE),
    'pbar': (bool,),
    'metrics': (dict, _NONE),
    'tile': (int, _NONE),
    'tile_overlap': (int,),
}
LOGGER: dict[str, Types] = {
    'print_freq': (int,),
    'save_checkpoint_freq': (int,),
    'keep_last': (int, _NONE),
    'use_tb_logger': (bool,),
    'tb_pictures': (int,),
    'wandb': (dict, _NONE),
}
WANDB: dict[str, Types] = {'project': (str, _NONE), 'resume_id': (str, _NONE)}
DIST: dict[str, Types] = {'backend': (str,), 'port': (int,)}
# Keys that BasicSR's own paired datasets read; they check nothing themselves.
STOCK_DATASET = {
    *('name', 'type', 'dataroot_gt', 'dataroot_lq', 'filename_tmpl', 'meta_info_file', 'io_backend', 'gt_size'),
    *('use_hflip', 'use_rot', 'color', 'mean', 'std', 'batch_size_per_gpu', 'num_worker_per_gpu'),
    *('dataset_enlarge_ratio', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers'),
}
STOCK_NEEDS = ('dataroot_gt', 'dataroot_lq', 'io_backend')
STOCK_TRAIN_NEEDS = ('gt_size', 'use_hflip', 'use_rot')
PRECISIONS = ('fp32', 'bf16', 'fp16')
BACKENDS = ('nccl', 'gloo')
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
}
LOGGER_DEFAULTS: dict[str, Any] = {
    'print_freq': 100,
    'save_checkpoint_freq': 1000,
    'keep_last': None,
    'use_tb_logger': False,
    'tb_pictures': 2,
    'wandb': None,
}
