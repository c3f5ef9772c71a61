"""One logger, BasicSR's own (`basicsr`), so that its messages and ours go to one place."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import basicsr.utils.logger as basicsr_logger
from tqdm import tqdm

NAME = 'basicsr'
_FORMAT = logging.Formatter('%(asctime)s %(levelname)s: %(message)s')


def setup(
    log_file: str | os.PathLike[str] | None = None, periodic: bool = True, warnings_only: bool = False
) -> logging.Logger:
    """Sends the logger to stderr and, if named, to a file; what it was sent to before is closed.

    Args:
        log_file: appended to; its folder is created. It gets everything.
        periodic: let BasicSR's lines of every `print_freq` through to stderr; without them, a live
            line may stand there, and what comes through is written above it.
        warnings_only: let only warnings through to stderr.
    """
    logger = logging.getLogger(NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logger.setLevel(logging.INFO)
    stream: logging.Handler = logging.StreamHandler(sys.stderr) if periodic else _AboveBars()
    stream.setLevel(logging.WARNING if warnings_only else logging.INFO)
    if not periodic:
        stream.addFilter(lambda record: record.module != 'logger')  # basicsr/utils/logger.py: MessageLogger
    handlers = [stream]
    if log_file is not None:
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log_file, 'a', encoding='utf-8'))
    for handler in handlers:
        handler.setFormatter(_FORMAT)
        logger.addHandler(handler)
    basicsr_logger.initialized_logger[NAME] = True  # get_root_logger adds no second handler then
    return logger


class _AboveBars(logging.Handler):
    """Writes to stderr without tearing a progress bar apart."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def get() -> logging.Logger:
    """Returns the logger."""
    return logging.getLogger(NAME)
