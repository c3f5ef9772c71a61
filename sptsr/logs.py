"""One logger, BasicSR's own (`basicsr`), so that its messages and ours go to one place."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import basicsr.utils.logger as basicsr_logger

NAME = 'basicsr'
_FORMAT = logging.Formatter('%(asctime)s %(levelname)s: %(message)s')


def setup(log_file: str | os.PathLike[str] | None = None, quiet: bool = False) -> logging.Logger:
    """Sends the logger to stderr and, if named, to a file; what it was sent to before is closed.

    Args:
        log_file: appended to; its folder is created.
        quiet: no lines on stderr below a warning (the file still gets all).
    """
    logger = logging.getLogger(NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO)
    stream = logging.StreamHandler(sys.stderr)
    stream.setLevel(logging.WARNING if quiet else logging.INFO)
    handlers: list[logging.Handler] = [stream]
    if log_file is not None:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, 'a', encoding='utf-8'))
    for handler in handlers:
        handler.setFormatter(_FORMAT)
        logger.addHandler(handler)
    basicsr_logger.initialized_logger[NAME] = True  # get_root_logger adds no second handler then
    return logger


def get() -> logging.Logger:
    """Returns the logger."""
    return logging.getLogger(NAME)
