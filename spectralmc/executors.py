"""Where runs are made: processes of this machine or a Dask cluster, each behind a `concurrent.futures.Executor`."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import multiprocessing
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from spectralmc.runner import terminable
from spectralmc.terminal import InputError

_PATIENCE = 10  # seconds a scheduler has to answer
_SCHEDULER = re.compile(r"(tcp|tls)://(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Workers:
    """What runs tasks: ``make`` opens an executor, ``width`` tasks are given to it at a time, ``stop`` ends it at once."""

    make: Callable[[], Executor]
    width: int
    stop: Callable[[Any], None]


def local(workers: int) -> Workers:
    """Return ``workers`` processes of this machine.  Raises ``InputError``."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers must be a whole number of at least 1; got {workers!r}")
    return Workers(lambda: ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")), workers, _terminate)


def _terminate(pool: ProcessPoolExecutor) -> None:
    for worker in multiprocessing.active_children():
        worker.terminate()  # each marks the cell it was in and ends
    pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def cluster(address: str) -> Iterator[Workers]:
    """Connect to a Dask scheduler, ``tcp://127.0.0.1:8786`` on this machine or ``tls://host:port`` on another.

    What travels between the parts of a cluster is pickled, so that whoever can talk to them can run code: beyond the loopback only TLS,
    whose certificates Dask's own configuration names (``distributed.comm.tls``).  Raises ``InputError``.
    """
    _refuse_open(address)
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise InputError("a cluster needs Dask: in the clone, pip install -e '.[batch,cluster]'") from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what happens to a run is told with the run
    with ThreadPoolExecutor(1) as aside:  # a loop of its own: a notebook's is running already
        failure = aside.submit(_greet, address).exception()
    if failure is not None:  # nobody there, somebody else there, no certificate: each with an exception of its own
        reason = " ".join(str(failure).split()) or f"no answer within {_PATIENCE} s ({type(failure).__name__})"
        raise InputError(f"no Dask scheduler answers at {address}: {reason}")
    client: Any = Client(address, timeout=_PATIENCE, set_as_default=False)
    try:
        threads = sum(client.nthreads().values())
        if threads == 0:
            raise InputError(f"the Dask scheduler at {address} has no workers: start some with 'dask worker {address}'")
        yield Workers(lambda: client.get_executor(pure=False), threads, lambda pool: pool.shutdown(wait=False))
    finally:
        with suppress(OSError, TimeoutError):
            client.close(timeout=_PATIENCE)


def _greet(address: str) -> None:
    """Ask a scheduler who it is, or raise what went wrong.  `Client` would wait for a stranger without end."""
    from distributed import Security, rpc

    async def ask() -> None:
        async with rpc(address, connection_args=Security().get_connection_args("client"), timeout=_PATIENCE) as scheduler:
            await scheduler.identity()

    asyncio.run(asyncio.wait_for(ask(), _PATIENCE))


def _refuse_open(address: str) -> None:
    match = _SCHEDULER.fullmatch(address)
    if not match or int(match[3]) > 65535:
        raise InputError(f"a scheduler must be given as tcp://127.0.0.1:PORT or tls://HOST:PORT; got {address!r}")
    if match[1] == "tcp" and not _is_loopback(match[2].strip("[]")):
        raise InputError(
            f"a scheduler on another machine must be reached by TLS, whoever connects can run code: tls://{match[2]}:{match[3]}"
        )


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def each(tasks: Iterable[_T], job: Callable[[_T], _R], workers: Workers) -> Iterator[tuple[_T, _R | Exception]]:
    """Yield every task with what ``job`` returned for it, or why there is nothing, as they end.

    A worker that is killed takes the executor with it: the others go on in a new one, those that were under way are done again alone.
    """
    waiting, lost = deque(tasks), list[_T]()
    while waiting:
        with _open(workers) as pool:
            yield from _drain(pool, waiting, lost, job, workers.width)
    for task in lost:
        with _open(workers) as pool:
            yield task, _result(pool.submit(job, task))


def _drain(pool: Executor, waiting: deque[_T], lost: list[_T], job: Callable[[_T], _R], width: int) -> Iterator[tuple[_T, _R | Exception]]:
    """Yield results until all is done or the executor is broken; ``lost`` gets the tasks that were under way then."""
    running: dict[Future[_R], _T] = {}
    broken = False
    while running or (waiting and not broken):
        while waiting and len(running) < width and not broken:
            try:
                running[pool.submit(job, waiting[0])] = waiting[0]
                waiting.popleft()
            except BrokenExecutor:
                broken = True
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task, found = running.pop(future), _result(future)
            if isinstance(found, BrokenExecutor):
                broken = True
                lost.append(task)
            else:
                yield task, found


def _result(future: Future[_R]) -> _R | Exception:
    try:
        return future.result()
    except Exception as failure:
        return failure


@contextmanager
def _open(workers: Workers) -> Iterator[Executor]:
    pool = workers.make()
    try:
        with terminable():
            yield pool
    except BaseException:
        workers.stop(pool)
        raise
    pool.shutdown(wait=True)
