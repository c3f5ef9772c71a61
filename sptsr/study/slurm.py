"""Steps of a study as jobs of a Slurm cluster, through submitit."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sptsr.core.errors import UserError


class SlurmStart:
    """Starts the steps of runs as jobs.

    Args:
        folder: where submitit keeps what it needs of a job.
        settings: of the jobs, by submitit's names: `slurm_partition=gpu gpus_per_node=1 timeout_min=240`, with
            `cluster=local` for processes on this machine.

    Raises:
        UserError: submitit is missing, there is no Slurm, or a setting that it does not know.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise UserError("--slurm: submitit is not installed; pip install 'sptsr[slurm]'") from error
        given = dict(settings)
        cluster = given.pop('cluster', 'slurm')
        try:
            self.executor = submitit.AutoExecutor(folder=folder / '%j', cluster=str(cluster))
            self.executor.update_parameters(**given)
        except Exception as error:  # of several kinds, such as RuntimeError where there is no srun
            raise UserError(f'--slurm: {" ".join(str(error).split())}') from error

    def __call__(self, command: Sequence[str], log: Path, environment: dict[str, str], lock: int) -> SlurmProcess:
        """Submits a step; the lock of its run is held by this process, and one of the job by the job."""
        return SlurmProcess(self.executor.submit(run_step, list(command), str(log), environment))


class SlurmProcess:
    """A step that is a job."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | None:
        """Returns the exit code, 1 for a job that the cluster ended; None while it waits or runs."""
        if not self.job.done():
            return None
        return 1 if self.job.exception() is not None else int(self.job.result())

    def stop(self, hard: bool) -> None:
        """Takes the job back; the cluster sends SIGTERM to one that runs, and later SIGKILL."""
        self.job.cancel()


def run_step(command: list[str], log: str, environment: dict[str, str]) -> int:
    """Runs a step in a job and returns its exit code.

    A job of an earlier command may still be at work on the run: this one waits for it.
    """
    with open(Path(log).with_suffix('.job'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(log, 'ab') as stream:
            return subprocess.run(
                command, stdout=stream, stderr=stream, env={**os.environ, **environment}, check=False
            ).returncode
