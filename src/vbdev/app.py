"""The application: configuration in, reactors, registry, RPC server and targets, orderly stop.

Everything ends in `App.stop`, in the opposite order of its start: no new RPC, no new client,
replies to what is in flight, exports, then bdevs from the top of each stack, each of which flushes
what it holds. A stop that can not finish says who is in its way.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from vbdev.address import Address
from vbdev.bdev import Bdev, BdevError, BdevState, VirtualBdev
from vbdev.config import Config, ConfigCall, read_config
from vbdev.context_switches import ContextSwitchMonitor
from vbdev.core.batch import load_columns
from vbdev.core.channel import Channel
from vbdev.core.engine import Engine
from vbdev.cpu_sets import Core
from vbdev.fd_limit import raise_fd_limit
from vbdev.logs import Logs
from vbdev.modules import MODULES
from vbdev.options import BdevOptions
from vbdev.params import ParamsError, decode_params
from vbdev.reactor import Reactor
from vbdev.reactors import MAX_FAILURES, Reactors
from vbdev.registry import Registry, subsystem_calls
from vbdev.rpc.bdev_methods import register_bdev_methods, register_module
from vbdev.rpc.dispatch import Dispatcher, State
from vbdev.rpc.errors import RpcError
from vbdev.rpc.examine_methods import register_examine_methods
from vbdev.rpc.framework_methods import Subsystems, register_framework_methods
from vbdev.rpc.holder_methods import register_holder_methods
from vbdev.rpc.init_methods import INIT_FAILED, register_init_methods
from vbdev.rpc.iobuf_methods import Iobuf, register_iobuf_methods
from vbdev.rpc.log_methods import register_log_methods
from vbdev.rpc.nbd_disk_methods import register_nbd_disk_methods
from vbdev.rpc.nbd_methods import register_nbd_methods
from vbdev.rpc.notify_methods import register_notify_methods
from vbdev.rpc.process_methods import register_process_methods
from vbdev.rpc.scheduler_methods import register_scheduler_methods, scheduler_config
from vbdev.rpc.schema_methods import register_schema_methods
from vbdev.rpc.server import RpcServer
from vbdev.rpc.stat_methods import register_stat_methods
from vbdev.rpc.thread_methods import register_thread_methods
from vbdev.startup import Startup, note, refuse
from vbdev.targets.nbd import NbdDisks, NbdServer
from vbdev.task import Future, wake
from vbdev.watchdog import Watchdog

__all__ = ["App", "AppError"]

log = logging.getLogger(__name__)

STOP_US = 30_000_000
"""How long an orderly stop may take before it says who holds it up and gives up."""
DEFAULT_BUFFER_BYTES = 256 << 20
"""What the data buffers of one reactor may add up to, unless iobuf_set_options says otherwise."""
ENTRY_POINTS = "vbdev.modules"


class AppError(Exception):
    """Something that was asked for at the start can not be done; the message is for a person."""


class App:
    """One daemon: its reactors, its bdevs, its control plane and its targets.

    Parameters
    ----------
    reactor: the first one, which owns the control plane; a new one by default.
    num_reactors: of all. AppError where there are not enough resources for them.
    cores: one reactor for each instead, known under its number and pinned to its CPUs; the first
        one's owns the control plane.
    logs: what the `log_*` methods act on; they are refused (ENOTSUP) where it is not open.

    """

    def __init__(
        self,
        reactor: Reactor | None = None,
        *,
        num_reactors: int = 1,
        cores: Sequence[Core] = (),
        logs: Logs | None = None,
    ) -> None:
        num_reactors = len(cores) or num_reactors
        self.reactor = reactor or Reactor(core=cores[0] if cores else None)
        self._pool_size = BdevOptions().bdev_io_pool_size
        self._iobuf = Iobuf()
        self.engine = self._make_engine()
        self.reactor.engine = self.engine
        try:
            self.reactors = Reactors(
                self.reactor, num_reactors, self._make_engine, self._reactor_failed, cores[1:]
            )
        except (OSError, MemoryError) as error:
            raise AppError(f"{num_reactors} reactors are too many here: {error}") from error
        self.registry = Registry(self.reactor)
        self.nbd = NbdServer(self.registry, self.reactors)
        self.nbd_disks = NbdDisks(self.nbd)
        self.dispatcher = Dispatcher()
        self.rpc = RpcServer(self.reactor, self.dispatcher)
        self.modules: dict[str, type[Bdev]] = {}
        self.exit_status = 0
        self.second_signal_stops = True
        """Whether a signal during the orderly stop ends it at once, with status 1."""
        self.initialized: Future[None] = Future()
        """Resolved by `run`: what was asked for at the start is there; or by `fail`."""
        self._start_init: Future[None] = Future()
        self._stop_asked: Future[None] = Future()
        self._startup: Startup | None = None
        self._stopping = False
        self._running = False
        register_process_methods(self.dispatcher, self.reactor, ContextSwitchMonitor(self.reactors))
        register_log_methods(self.dispatcher, logs or Logs())
        register_thread_methods(self.dispatcher, self.registry, self.reactors)
        register_scheduler_methods(self.dispatcher, self.reactors)
        self.subsystems: Subsystems = {
            "scheduler": ([], scheduler_config),
            "iobuf": ([], self._iobuf.config),
            "bdev": (["iobuf"], partial(subsystem_calls, self.registry)),
            "nbd": (["bdev"], lambda: [*self.nbd.config(), *self.nbd_disks.config()]),
        }
        register_framework_methods(self.dispatcher, self.subsystems)
        register_schema_methods(self.dispatcher, self.reactor)
        register_init_methods(self.dispatcher, self._begin_init, self.initialized)
        register_bdev_methods(self.dispatcher, self.registry)
        register_examine_methods(
            self.dispatcher,
            self.registry,
            num_reactors=lambda: len(self.reactors),
            apply=self._apply_options,
        )
        register_iobuf_methods(self.dispatcher, self.reactors, self._iobuf, self._renew_engines)
        register_holder_methods(self.dispatcher, self.registry)
        register_notify_methods(self.dispatcher, self.registry)
        register_stat_methods(self.dispatcher, self.registry)
        register_nbd_methods(self.dispatcher, self.nbd)
        register_nbd_disk_methods(self.dispatcher, self.nbd_disks)
        for module in MODULES:
            self.add_module(module)

    def _make_engine(self) -> Engine:
        buffers = self._iobuf.options.limit_bytes if self._iobuf.is_set else DEFAULT_BUFFER_BYTES
        engine = Engine(
            pool_size=self._pool_size,
            buffer_limit_bytes=buffers,
            virtual=self.reactor.clock.virtual,
        )
        engine.on_module_error = report_module_error
        Watchdog(engine)
        return engine

    # Modules

    def add_module(self, module: type[Bdev]) -> None:
        """Offer a module under its kind. AppError when another has that kind, or its methods."""
        kind = getattr(module, "kind", None)
        if not isinstance(kind, str) or not kind.isidentifier():
            raise AppError(f"module {module.__qualname__}: kind is {kind!r}; give it a name")
        if kind in self.modules:
            raise AppError(
                f"module kind {kind!r} of {module.__module__} is taken by"
                f" {self.modules[kind].__module__}"
            )
        if "product_name" not in vars(module):
            module.product_name = kind
        try:
            register_module(self.dispatcher, self.registry, module)
        except ValueError as error:  # one that inherits another's methods has their names too
            raise AppError(f"module kind {kind!r} of {module.__module__}: {error}") from error
        self.modules[kind] = module
        self.registry.add_module(module)

    def load_installed_modules(self) -> None:
        """Offer what installed packages have in the entry point group `vbdev.modules`."""
        for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
            try:
                self.add_module(entry.load())
            except Exception as error:
                raise AppError(f"module {entry.name} of {entry.value}: {error}") from error
            load_columns()

    def load_module_file(self, path: str) -> list[str]:
        """Offer the modules that a Python file defines and return their kinds."""
        file = Path(path)
        if not file.is_file():
            raise AppError(f"module file {path}: no such file")
        name = f"vbdev_module_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise AppError(f"module file {path}: not a Python file (*.py)")
        python = importlib.util.module_from_spec(spec)
        sys.modules[name] = python  # msgspec and pickle look classes up by their module
        try:
            spec.loader.exec_module(python)
        except Exception as error:
            raise AppError(f"module file {path}: {type(error).__name__}: {error}") from error
        found = [
            value
            for value in vars(python).values()
            if isinstance(value, type) and issubclass(value, Bdev) and value.__module__ == name
        ]
        if not found:
            raise AppError(f"module file {path} defines no subclass of Bdev or VirtualBdev")
        for module in found:
            try:
                self.add_module(module)
            except AppError as error:
                raise AppError(f"module file {path}: {error}") from error
        load_columns()
        return [module.kind for module in found]

    # Creation

    def create(self, kind: str, params: dict[str, Any]) -> str:
        """Create a bdev from decoded parameters, before `run`; return its name."""
        module = self.modules.get(kind)
        if module is None:
            raise AppError(f"unknown kind {kind!r}; kinds: {', '.join(sorted(self.modules))}")
        try:
            decoded = decode_params(module.Params, params)
            return self.reactor.run_until_complete(self.registry.create(module, decoded))
        except ParamsError as error:
            raise AppError(f"{kind}: {error}") from error
        except (BdevError, OSError) as error:
            raise AppError(str(error)) from error

    def begin_config(
        self,
        config: Config,
        *,
        ignore_errors: bool = False,
        on_error: Callable[[ConfigCall, RpcError], object] | None = None,
    ) -> None:
        """Carry out those calls of a configuration that come before all bdevs: options.

        After the modules are loaded, whose methods it may name. A signal ends it. ConfigError:
        what is wrong where, a method that nobody has included; with `ignore_errors`, the log
        says so; with `on_error`, that is told, and decides.
        """
        on_error = on_error or (note if ignore_errors else refuse)
        self._startup = Startup(config, self.dispatcher, self.subsystems, on_error=on_error)
        before, self.dispatcher.state = self.dispatcher.state, State.STARTUP
        try:
            self._carry_out(self._startup, self._startup.carry_out_startup())
        finally:
            self.dispatcher.state = before

    def finish_config(self) -> None:
        """Carry out the others, unless a signal comes. ConfigError: what is wrong where."""
        if self._startup is not None:
            self._carry_out(self._startup, self._startup.carry_out_runtime())
            self._startup = None

    def _carry_out(self, startup: Startup, calls: Coroutine[Any, Any, None]) -> None:
        async def until_stopped() -> None:
            either: Future[None] = Future()
            task = self.reactor.spawn(calls, "configuration")
            for one in (task, self._stop_asked):
                one.add_done_callback(lambda _one: wake(either))
            await either
            if not task.done:
                startup.give_up()
                return
            task.result()

        with self._woken_by_signals():
            self.reactor.run_until_complete(until_stopped())

    def _apply_options(self, options: BdevOptions) -> None:
        self._pool_size = options.bdev_io_pool_size
        self._renew_engines()

    def _renew_engines(self) -> None:
        # Nothing has a BdevIO or a buffer yet: there is no bdev.
        self.engine = self._make_engine()
        for reactor in self.reactors:  # those but the first do not run yet
            reactor.engine = self.engine if reactor is self.reactor else self._make_engine()

    def topmost(self) -> list[Bdev]:
        """Return the bdevs that no vbdev stands on."""
        bases = {b.base.name for b in self.registry if isinstance(b, VirtualBdev)}
        return [bdev for bdev in self.registry if bdev.name not in bases]

    # Running

    def catch_signals(self) -> None:
        """Let SIGINT and SIGTERM stop the application in order, from here on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _frame: self.request_stop(number))

    @staticmethod
    def ignore_signals() -> None:
        """Let no SIGINT or SIGTERM change the exit status any more, at the end of a command.

        Python gives them back their default actions as it ends, unless they are ignored.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    def start(
        self,
        *,
        load: Callable[[], object],
        rpc: str | None = None,
        config: str | None = None,
        ignore_errors: bool = False,
        wait_for_rpc: bool = False,
        on_wait: Callable[[Address], object] = lambda _rpc: None,
        build: Callable[[], object] = lambda: None,
        serve: Callable[[], object] = lambda: None,
    ) -> bool:
        """Do all that comes before `run`, in its order; False when a signal came meanwhile.

        Whatever the answer, `run` is next; after an error `fail` is.

        Parameters
        ----------
        load: offers modules, whose methods the configuration may name.
        rpc: where the control plane listens; held until `run`. None: nowhere.
        config: SPDK's JSON configuration, a file. ignore_errors: what goes wrong with it is logged.
        wait_for_rpc: settle options by RPC first, until framework_start_init. on_wait: told
            where it listens, when it does.
        build: makes bdevs, behind the options of the configuration and before its bdevs.
        serve: adds targets, when all bdevs are there.

        Raises AppError, ConfigError, ListenError, BdevError.

        """
        raise_fd_limit()
        decoded = None if config is None else read_config(config)
        # The control plane's socket comes first: one daemon for each, and a second one is to find
        # out before it touches any file.
        self.rpc.hold()  # nobody is to see a stack half built: until `run`
        address = None if rpc is None else self.rpc.listen(rpc)
        load()
        if decoded is not None:
            self.begin_config(decoded, ignore_errors=ignore_errors)
        if wait_for_rpc:
            if address is not None:
                on_wait(address)
            self.wait_for_rpc()
        if self._stopping:
            return False
        build()
        self.finish_config()
        if self._stopping:
            return False
        serve()
        self.start_reactors()
        return True

    def start_reactors(self) -> None:
        """Let the reactors but the first run, before `run`; AppError where one does not."""
        try:
            self.reactors.start()
        except RuntimeError as error:
            raise AppError(str(error)) from error

    def wait_for_rpc(self) -> None:
        """Serve the RPC methods that settle options, until framework_start_init or a signal."""
        self.dispatcher.state = State.STARTUP
        self.rpc.release()
        with self._woken_by_signals():
            self.reactor.run_until_complete(_result(self._start_init))
        self.dispatcher.state = State.RUNTIME

    def _begin_init(self) -> None:
        self.rpc.hold()  # what comes from now on is for the finished stack: until `run`
        wake(self._start_init)

    def run(self) -> int:
        """Serve until a signal; return the exit status. One that came before counts too."""
        self.catch_signals()
        self._running = True
        wake(self.initialized)
        self.rpc.release()
        gc.freeze()  # what is there now stays; full collections would look at it for 10 ms each
        if self._stopping:
            self.reactor.spawn(self.stop(), "stop")
        self._turn()
        return self.exit_status

    def fail(self, error: Exception) -> int:
        """End in order, instead of `run`, what can not be started; return the exit status.

        As during any stop another signal ends it at once, and time does.
        """
        self.exit_status = 1
        self._stopping = self._running = True
        if not self.initialized.done:
            self.initialized.set_exception(RpcError(*INIT_FAILED, str(error)))
        self.reactor.spawn(self.stop(), "stop")
        self._turn()
        return self.exit_status

    def _turn(self) -> None:
        with self._woken_by_signals():
            try:
                self._run_to_the_end()
            finally:
                self.reactors.stop_at_once()  # those that an orderly stop has not ended

    def _run_to_the_end(self) -> None:
        """Run the first reactor. What leaves it, a module's `sys.exit` say, begins the stop."""
        for _ in range(MAX_FAILURES):
            try:
                self.reactor.run()
            except BaseException as error:
                log.critical("reactor failed name=%s", self.reactor.name, exc_info=error)
                self._reactor_failed(self.reactor, error)
            else:
                break

    @contextlib.contextmanager
    def _woken_by_signals(self) -> Iterator[None]:
        # Python runs a handler between two of its own instructions. A signal that came just
        # before the reactor went to sleep, or to another thread, has to wake it for that.
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        watch = self.reactor.watch(reader, readable=lambda: os.read(reader, 64))
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            watch.close()
            os.close(reader)
            os.close(writer)

    def request_stop(self, number: int = signal.SIGTERM) -> None:
        """Begin the orderly stop; asked again, stop at once if `second_signal_stops`."""
        if self._stopping:
            if not self.second_signal_stops:
                return
            log.error("stopping at once: signal %s came again", signal.Signals(number).name)
            self.exit_status = 1
            self.reactor.stop()
            return
        self._stopping = True
        if self._running:
            self.reactor.send_msg(lambda: self.reactor.spawn(self.stop(), "stop"))
        else:
            self.reactor.send_msg(self._stop_before_run)

    def _stop_before_run(self) -> None:
        wake(self._stop_asked)
        self._begin_init()

    def _reactor_failed(self, reactor: Reactor, error: BaseException) -> None:
        log.critical("stopping, because reactor %s failed: %r", reactor.name, error)
        self.exit_status = 1
        if not self._stopping:
            self.request_stop()

    async def stop(self) -> None:
        """Stop everything in order, then the reactors, the first one last."""
        timer = self.reactor.call_later(STOP_US, self._give_up)
        for end in (
            self.rpc.close,
            self.nbd_disks.close,
            self.nbd.close,
            self.registry.close,
            self._end_reactors,
        ):
            try:
                await end()
            except Exception:  # which must not keep the bdevs from what they still hold
                log.exception("the stop failed")
                self.exit_status = 1
        timer.cancel()
        self.reactor.stop()

    async def _end_reactors(self) -> None:
        for reactor in await self.reactors.stop():
            log.error("reactor %s does not end: a module blocks it", reactor.name)
            self.exit_status = 1

    def close(self) -> None:
        """Give back what the reactors hold. After `run`."""
        self.reactors.close()
        self.reactor.close()

    def _give_up(self) -> None:
        if any(bdev.state is BdevState.REMOVED for bdev in self.registry):
            # A last sync is under way, and what it writes is worth waiting for.
            log.warning("still writing what the bdevs hold; another signal stops at once")
            self.reactor.call_later(STOP_US, self._give_up)
            return
        for bdev in self.registry:
            holders = ", ".join(bdev.holders()) or "nobody"
            log.error(
                "bdev %s is still there after %d s: state %s, held by %s, %d I/Os outstanding",
                bdev.name,
                STOP_US // 1_000_000,
                bdev.state.value,
                holders,
                bdev.outstanding,
            )
        self.exit_status = 1
        self.reactor.stop()


async def _result(future: Future[None]) -> None:
    await future


def report_module_error(source: object, error: BaseException, failed: int) -> None:
    """Say which bdev's module raised (the engine calls this, once for a batch)."""
    who = f"bdev {source.bdev.name} ({source.bdev.kind})" if isinstance(source, Channel) else source
    log.error("%s raised %r; %d I/Os failed for it", who, error, failed, exc_info=error)
