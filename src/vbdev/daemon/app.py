"""The application: configuration in, reactors, registry, RPC server and targets, orderly stop.

One room: a daemon's parts meet here alone, so whoever composes them has all of them in hand.

Everything ends in `App.stop`, in the opposite order of its start: no new RPC, no new client,
replies to what is in flight, exports, then bdevs from the top of each stack, each of which flushes
what it holds. A stop that can not finish says who is in its way.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from vbdev.api.errors import RpcError
from vbdev.api.methods import State
from vbdev.api.params import ParamsError, decode_params
from vbdev.bdev import Bdev, BdevError, VirtualBdev
from vbdev.core.engine.batch import load_columns
from vbdev.core.engine.channel import Channel
from vbdev.core.engine.engine import BrokenPromiseError, Engine
from vbdev.daemon.config import Config, ConfigCall, ConfigError, read_config
from vbdev.daemon.loading import LoadError, installed_modules, modules_of
from vbdev.daemon.signals import Signals, ignore_signals
from vbdev.daemon.startup import Startup, note, refuse
from vbdev.daemon.stopping import Stop
from vbdev.files.access import reading
from vbdev.files.leaving import say_what_stays
from vbdev.modules import MODULES
from vbdev.reactor.blocking import call_blocking, call_off
from vbdev.reactor.fd_limit import raise_fd_limit
from vbdev.reactor.reactor import Reactor
from vbdev.reactor.reactors import MAX_FAILURES, Reactors
from vbdev.reactor.task import Future, Task, wake
from vbdev.registry import Registry
from vbdev.registry.options import BdevOptions
from vbdev.reports.context_switches import ContextSwitchMonitor
from vbdev.reports.logs import Logs
from vbdev.reports.watchdog import Watchdog
from vbdev.rpc.methods import register_methods
from vbdev.rpc.methods.bdev import register_module
from vbdev.rpc.methods.init import INIT_FAILED
from vbdev.rpc.methods.plane import Iobuf, Plane, Subsystems
from vbdev.rpc.methods.scheduler import scheduler_config
from vbdev.rpc.methods.thread import given_cpus
from vbdev.rpc.serving.dispatch import Dispatcher
from vbdev.rpc.serving.rpc_server import RpcServer
from vbdev.targets.nbd import KernelDisks, NbdServer
from vbdev.vocab.address import Address, ListenError
from vbdev.vocab.cpu_sets import Core
from vbdev.vocab.refused import reason
from vbdev.vocab.text import is_utf8, printable

__all__ = ["App", "AppError", "StoppedError"]

log = logging.getLogger(__name__)

T = TypeVar("T")

HURRY_S = 5.0
"""How long "at once" may take, for threads that are in the middle of something."""
DEFAULT_BUFFER_BYTES = 256 << 20
"""What the data buffers of one reactor may add up to, unless iobuf_set_options says otherwise."""
HOLLOW = frozenset({"accel"})
"""Subsystems that clients of SPDK's ask the configuration of and that have no methods here: what
copies, fills and checks data is this process's own, and has nothing to be set."""
APP_THREAD = "app_thread"
"""The first thread, as SPDK calls the one that its control plane runs on."""


class AppError(Exception):
    """Something that was asked for at the start can not be done; the message is for a person."""


class StoppedError(Exception):
    """A signal has asked for the stop before what was begun had its end."""


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
        # One piece: the parts of a daemon, in the order in which they need each other.
        num_reactors = len(cores) or num_reactors
        self._pool_size = BdevOptions().bdev_io_pool_size
        self._iobuf = Iobuf()
        try:
            self.reactor = reactor or Reactor(APP_THREAD, core=cores[0] if cores else None)
            self.engine = self._make_engine()
        except (OSError, MemoryError) as error:
            raise AppError(f"can not start: {reason(error)}") from error
        self.reactor.engine = self.engine
        try:
            self.reactors = Reactors(
                self.reactor, num_reactors, self._make_engine, self._reactor_failed, cores[1:]
            )
        except (OSError, MemoryError) as error:
            raise AppError(f"{num_reactors} reactors are too many here: {reason(error)}") from error
        self.registry = Registry(self.reactor)
        self.nbd = NbdServer(self.registry, self.reactors)
        self.kernel_disks = KernelDisks(self.nbd)
        self.dispatcher = Dispatcher()
        self.rpc = RpcServer(self.reactor, self.dispatcher)
        self.modules: dict[str, type[Bdev]] = {}
        self.exit_status = 0
        self.second_interrupt_stops = True
        """Whether a SIGINT during the orderly stop ends it at once, with status 1."""
        self.initialized: Future[None] = Future()
        """Resolved by `run`: what was asked for at the start is there; or by `fail`."""
        self._start_init: Future[None] = Future()
        self._stop_asked: Future[None] = Future()
        self._startup: Startup | None = None
        self._stopping = False
        self._running = False
        self._stop_task: Task[None] | None = None
        self._signals = Signals(self.reactor, self.request_stop, self._hurry)
        self._logs = logs or Logs()
        self._monitor = ContextSwitchMonitor(self.reactors)
        self.subsystems: Subsystems = {
            "scheduler": ([], scheduler_config),
            "iobuf": ([], self._iobuf.config),
            "accel": (["iobuf"], list),
            "bdev": (["accel", "iobuf"], self.registry.subsystem_calls),
            "nbd": (["bdev"], lambda: [*self.nbd.config(), *self.kernel_disks.config()]),
        }
        register_methods(
            Plane(
                dispatcher=self.dispatcher,
                reactors=self.reactors,
                cpus=given_cpus(self.reactors),
                registry=self.registry,
                nbd=self.nbd,
                kernel_disks=self.kernel_disks,
                logs=self._logs,
                monitor=self._monitor,
                iobuf=self._iobuf,
                subsystems=self.subsystems,
                renew_engines=self._renew_engines,
                start_init=self._begin_init,
                initialized=self.initialized,
            )
        )
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
        for name, value, load in installed_modules():
            try:
                self.add_module(load())
            except Exception as error:
                raise AppError(f"module {name} of {value}: {error}") from error
            load_columns()

    def load_module_file(self, path: str) -> list[str]:
        """Offer the modules that a Python file defines and return their kinds."""
        try:
            self._read(path, regular=True)  # once where a signal can end it
            found = modules_of(path)
            for module in found:
                self.add_module(module)
        except FileNotFoundError as error:
            raise AppError(f"module file {path}: no such file") from error
        except OSError as error:
            raise AppError(f"module file {path}: {error.strerror}") from error
        except (AppError, LoadError) as error:
            raise AppError(f"module file {path}: {error}") from error
        load_columns()
        return [module.kind for module in found]

    # Creation

    def create(self, kind: str, params: dict[str, Any]) -> str:
        """Create a bdev from decoded parameters, before `run`; return its name."""
        module = self.modules.get(kind)
        if module is None:
            raise AppError(f"unknown kind {kind!r}; kinds: {', '.join(sorted(self.modules))}")
        for key, value in params.items():
            if isinstance(value, str) and not is_utf8(value):
                raise AppError(
                    f"{kind}: {key}: {printable(value)} is not UTF-8, and JSON can not name it:"
                    " neither the control plane nor a saved configuration"
                )
        try:
            decoded = decode_params(module.Params, params)
            return self._complete(self.registry.create(module, decoded), f"creation of a {kind}")
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
        subsystems = self.subsystems.keys() - HOLLOW
        self._startup = Startup(config, self.dispatcher, subsystems, on_error=on_error)
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
        try:
            self._complete(calls, "configuration")
        except StoppedError:
            startup.give_up()

    def listen(self, address: str) -> Address:
        """Serve NBD on an address, before `run`. StoppedError where a signal comes first."""
        return self._complete(self.nbd.listen_beside(address), f"listening on {address}")

    def _read(self, path: str, *, regular: bool = False) -> bytes:
        """Read a file, before `run`; StoppedError where a signal comes first."""
        call = reading(path, regular=regular)
        what = f"reading {path}"
        asked = call_blocking(self.reactor, what, call.run, give_up=call.give_up, timeout_us=None)
        return self._complete(asked, what)

    def _complete(self, coroutine: Coroutine[Any, Any, T], name: str) -> T:
        """Run a coroutine to its end, before `run`; StoppedError where a signal comes first."""

        async def until_stopped() -> T:
            either: Future[None] = Future()
            task = self.reactor.spawn(coroutine, name)
            for one in (task, self._stop_asked):
                one.add_done_callback(lambda _one: wake(either))
            await either
            if not task.done:
                raise StoppedError
            return task.result()

        return self.reactor.run_until_complete(until_stopped())

    def _renew_engines(self) -> None:
        # Nothing has a BdevIO or a buffer yet: there is no bdev.
        self._pool_size = self.registry.options.bdev_io_pool_size
        self.engine = self._make_engine()
        for reactor in self.reactors:  # those but the first do not run yet
            reactor.engine = self.engine if reactor is self.reactor else self._make_engine()

    def topmost(self) -> list[Bdev]:
        """Return the bdevs that no vbdev stands on."""
        bases = {b.base.name for b in self.registry if isinstance(b, VirtualBdev)}
        return [bdev for bdev in self.registry if bdev.name not in bases]

    # Running

    def catch_signals(self) -> None:
        """Let signals stop the application in order, from here on (`vbdev.daemon.signals`)."""
        self._signals.catch()

    def serve(self, start: Callable[[], object], on_error: Callable[[str], object]) -> int:
        """Start (`start`, which calls the method), run, stop; return the exit status.

        Whatever goes wrong from the first listener on, there is an orderly stop. on_error: told in
        one line what, if it is the fault of who asked; of all else the log has the traceback.
        """
        try:
            try:
                self.catch_signals()
                with contextlib.suppress(StoppedError):
                    start()
            except (OSError, MemoryError) as error:
                log.debug("what was refused at the start", exc_info=error)
                raise AppError(f"can not start: {reason(error)}") from error
            return self.run()
        except (AppError, ConfigError, ListenError, BdevError) as error:
            on_error(str(error))
            return self.fail(error)
        except BaseException as error:
            log.critical("stopping, because of %r", error, exc_info=error)
            return self.fail(error)
        finally:
            self._end_at_once()
            ignore_signals()
            say_what_stays()

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

        Raises AppError, ConfigError, ListenError, BdevError; StoppedError as False.

        """
        raise_fd_limit()
        decoded = None if config is None else read_config(config, partial(self._read, config))
        # The control plane's socket comes first: one daemon for each, and a second one is to find
        # out before it touches any file.
        self.rpc.hold()  # nobody is to see a stack half built: until `run`
        address = None if rpc is None else self._complete(self.rpc.listen_beside(rpc), "rpc")
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
        self._logs.on_change = partial(self.reactor.send_msg, self._follow_log)
        self._follow_log()

    def _follow_log(self) -> None:
        # What the log lets out decides whether anybody has to look for context switches.
        self.reactor.spawn(self._monitor.follow(), "context switch monitor")

    def wait_for_rpc(self) -> None:
        """Serve the RPC methods that settle options, until framework_start_init or a signal."""
        self.dispatcher.state = State.STARTUP
        self.rpc.release()
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
            self._begin_stop()
        self._turn()
        return self.exit_status

    def fail(self, error: BaseException) -> int:
        """End in order what can not be started, or does not run on; return the exit status.

        As during any stop a SIGINT ends it at once, and time does.
        """
        self.exit_status = 1
        self._stopping = self._running = True
        self._signals.stop_began()
        if not self.initialized.done:
            self.initialized.set_exception(INIT_FAILED.error(str(error)))
        self._begin_stop()
        self._turn()
        return self.exit_status

    def _turn(self) -> None:
        self._run_to_the_end()
        self._end_at_once()

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

    def _end_at_once(self) -> None:
        self._logs.on_change = lambda: None
        self.reactors.stop_at_once()  # those that an orderly stop has not ended
        self._signals.release()

    @property
    def is_stopping(self) -> bool:
        """Whether the stop has been asked for."""
        return self._stopping

    def request_stop(self, number: int = signal.SIGTERM) -> None:
        """Begin the orderly stop. Asked again it changes nothing."""
        if self._stopping:
            return
        self._stopping = True
        log.info("stopping: %s", signal.Signals(number).name)
        if self._running:
            self.reactor.send_msg(self._begin_stop)
        else:
            self.reactor.send_msg(self._stop_before_run)

    def _hurry(self, number: int) -> None:
        """Stop at once: a person does not want to wait."""
        if not self.second_interrupt_stops:
            return
        log.error("stopping at once: signal %s came again", signal.Signals(number).name)
        self._signals.exit_within(HURRY_S, 1)
        self.exit_status = 1
        self.reactor.stop()

    def _begin_stop(self) -> None:
        if self._stop_task is None:
            self._stop_task = self.reactor.spawn(self.stop(), "stop")

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
        call_off(self.reactor)  # a file that does not open is not waited for
        stop = Stop(
            reactor=self.reactor,
            reactors=self.reactors,
            registry=self.registry,
            nbd=self.nbd,
            ends=(self.rpc.close, self.kernel_disks.close),
            on_failure=self._stop_failed,
        )
        await stop.run()
        self.reactor.stop()

    def _stop_failed(self) -> None:
        self.exit_status = 1

    def close(self) -> None:
        """Give back what the reactors hold. After `run`."""
        self._signals.release()
        self.reactors.close()
        self.reactor.close()


async def _result(future: Future[None]) -> None:
    await future


def report_module_error(source: object, error: BaseException, failed: int) -> None:
    """Say which bdev's module raised (the engine calls this, once for a batch)."""
    who = f"bdev {source.bdev.name} ({source.bdev.kind})" if isinstance(source, Channel) else source
    if isinstance(error, BrokenPromiseError):
        log.error("%s %s: %d I/Os failed for it", who, error, failed)
        return
    log.error("%s raised %r; %d I/Os failed for it", who, error, failed, exc_info=error)
