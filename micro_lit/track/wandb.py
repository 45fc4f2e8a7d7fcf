"""Weights & Biases logger whose errors never stop a run.

One background thread makes all W&B calls, so that training never waits for the network. Data that cannot be sent stays
in `wandb/` of the run folder, and the last printed line is the command that sends it. Calls of callbacks through
`experiment` are redacted too.
"""

import contextlib
import functools
import os
import queue
import secrets
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import loggers

from micro_lit.config.redaction import redact
from micro_lit.host import ranks
from micro_lit.host.files import write_text
from micro_lit.track import artifacts
from micro_lit.track.artifacts import RUN_ID, run_id
from micro_lit.track.contract import Recorder
from micro_lit.track.record import Artifact, RunRecord

# A call that the background thread makes with the `wandb.Run`.
Act = Callable[[Any], Any]

ARTIFACTS = {"model": artifacts.model, "features": artifacts.features}

SHUNNED = 600.0  # seconds without retry after a server error, for later runs of a sweep
EXIT_GRACE = 10.0  # seconds to write remaining data, when W&B hangs or the run failed

_shunned_until = 0.0  # on the clock of time.monotonic()


class Session:
    """One W&B run and its background thread.

    The run is offline if `offline` is set, without an API key, with WANDB_MODE=offline, or after a recent server error.

    Args:
        folder: parent of `wandb/`.
        resumed: whether to reuse the run id that an earlier session stored in the folder.
        offline: whether to make no connection to the server.
        init_timeout: seconds to wait for the server at the start; training continues meanwhile.
        finish_timeout: seconds to wait at the end until all data are uploaded.
        facts: further arguments of `wandb.init`.
    """

    def __init__(
        self,
        folder: Path,
        resumed: bool = False,
        offline: bool = False,
        init_timeout: float = 20.0,
        finish_timeout: float = 60.0,
        **facts: Any,
    ) -> None:
        self.folder, self.resumed, self.offline = folder, resumed, offline
        self.init_timeout, self.finish_timeout, self.facts = init_timeout, finish_timeout, facts
        self._acts: queue.SimpleQueue[Act | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._run: Any = None
        self._unsent: list[Path] = []
        self._lost = self._complained = self._failed = False
        self._over = ranks.rank() > 0

    def do(self, act: Act) -> None:
        """Queues `act` for the background thread, which calls it with the run. Returns immediately, never raises."""
        if self._over:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="W&B", daemon=True)
            self._thread.start()
        self._acts.put(act)

    def finish(self, failed: bool = False) -> None:
        """Waits, up to the timeouts, until all data are sent or written; prints the command that sends the rest."""
        if self._thread is None:
            return
        self._failed = failed
        self._acts.put(None)
        self._thread.join(EXIT_GRACE if failed else self.init_timeout + self.finish_timeout + EXIT_GRACE)
        if self._thread.is_alive():
            if (process := _service()) is not None:
                process.kill()  # unblocks all calls that wait for it
            self._thread.join(EXIT_GRACE)
        self._thread, self._over = None, True
        if self._unsent:
            online = any(not folder.name.startswith("offline") for folder in self._unsent)
            words = ["wandb", "sync", *(["--include-online"] if online else []), *map(str, self._unsent)]
            _say(f"to send what is not yet sent: {shlex.join(words)}")

    def _work(self) -> None:
        for act in iter(self._acts.get, None):
            if not self._over:
                self._attempt(act)
        if self._run is not None:
            self._close()

    def _attempt(self, act: Act) -> None:
        try:
            if self._run is None:
                self._run = self._open()
        except Exception as error:
            self._over = True
            _say(f"nothing more is logged here ({_wandb_reason(error)}); the run goes on")
            return
        try:
            act(_Outgoing(self._run))
        except Exception as error:
            if _is_lost(error) and not self._lost:
                _say(f"its process has died ({_wandb_reason(error)}); the run goes on, offline from here on")
                self._lost, self._run = True, None
                self._attempt(act)
            elif not self._complained:
                _say(f"something is not logged ({_wandb_reason(error)}); the run goes on")
                self._complained = True

    def _open(self) -> Any:
        """Starts the W&B run, online if possible, else offline."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no reports of the library's own errors
        import wandb

        global _shunned_until
        if self._lost:
            _forget_service()
        wandb.setup(wandb.Settings(silent=True))
        mode = os.environ.get("WANDB_MODE")
        online = not (self.offline or self._lost or mode in ("offline", "dryrun"))
        if online and time.monotonic() > _shunned_until:
            try:
                if mode == "disabled" or wandb.login(prompt=False, verify=False):
                    return self._init(None)
            except Exception as error:
                _say(f"no usable answer ({_wandb_reason(error)}); the run goes on, offline")
                _shunned_until = time.monotonic() + SHUNNED
                _forget_service()  # else wandb-core treats the run as already started
        return self._init("offline")

    def _init(self, mode: str | None) -> Any:
        import wandb

        command = " ".join(sys.argv)
        settings = wandb.Settings(
            silent=True,
            console="off",  # else W&B would capture everything that is printed
            init_timeout=self.init_timeout,
            finish_timeout=self.finish_timeout,
            finish_timeout_raises=True,
            save_code=False,
            x_disable_meta=redact(command) != command,  # metadata contains the command line; disabled if it has secrets
            x_transaction_log_flush_interval=1.0,  # seconds of metrics lost if wandb-core dies; metrics.csv has them
        )
        own = {"id": self._id(), "resume": "allow", "reinit": "create_new", "dir": self.folder, "mode": mode}
        run = wandb.init(**redact(self.facts), **own, settings=settings)
        if not run.disabled:
            self._unsent.append(Path(run.sync_dir))
            if not run.offline:
                _say(run.url)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run

    def _id(self) -> str:
        """Id of the resumed run, or a new id, which is stored in the folder."""
        if self.resumed and (found := run_id(self.folder)):
            return found
        found, self.resumed = secrets.token_hex(6), True  # a second `_open` of this session must use the same id
        (self.folder / RUN_ID).parent.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / RUN_ID, found)
        return found

    def _close(self) -> None:
        try:
            self._run.finish(exit_code=int(self._failed))
            if self._unsent and not self._run.offline:
                log = self._unsent[-1] / "logs" / "debug-internal.log"
                if "fatal error" not in log.read_text(errors="replace"):  # the log is the only sign of a failed upload
                    self._unsent.pop()
        except Exception as error:
            _say(f"the end is not logged ({_wandb_reason(error)})")
            if _is_lost(error):
                _forget_service()


class _Outgoing:
    """Proxy of a W&B run, or of a part of it, that redacts all arguments."""

    def __init__(self, part: Any) -> None:
        object.__setattr__(self, "_part", part)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._part, name, _sent(value))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        return _Outgoing(found) if callable(found) or name in ("config", "summary") else found

    def __setitem__(self, name: str, value: Any) -> None:
        self._part[name] = _sent(value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._part(*map(_sent, arguments), **_sent(named))


def _sent(payload: Any) -> Any:
    """Returns a redacted copy of a value, including the cells of a `wandb.Table`."""
    import wandb

    if isinstance(payload, Mapping):
        return redact({name: _sent(value) for name, value in payload.items()})
    if isinstance(payload, wandb.Table):
        columns, data = redact(payload.columns), redact(payload.data)
        return payload if (columns, data) == (payload.columns, payload.data) else wandb.Table(columns, data)
    return redact(payload)


class _Deferred:
    """Proxy of a part of a W&B run whose calls are queued for the background thread; they return None."""

    def __init__(self, session: Session, *path: str) -> None:
        self._session, self._path = session, path

    def __getattr__(self, name: str) -> "_Deferred":
        if name.startswith("__"):
            raise AttributeError(name)
        return _Deferred(self._session, *self._path, name)

    def __call__(self, *arguments: Any, **named: Any) -> None:
        self._session.do(lambda run: functools.reduce(getattr, self._path, run)(*arguments, **named))


class WandbLogger(loggers.WandbLogger, Recorder):
    """Lightning's W&B logger with all calls queued in a `Session`, so that methods of `experiment` return None.

    Args:
        save_dir: run folder.
        offline, init_timeout, finish_timeout: see `Session`.
        project, name, entity, group, tags: see `wandb.init`.
    """

    def __init__(
        self,
        save_dir: str,
        project: str,
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        offline: bool = False,
        init_timeout: float = 20.0,
        finish_timeout: float = 60.0,
    ) -> None:
        super().__init__(name=name, save_dir=save_dir, project=project, offline=offline)
        self._facts = {
            "project": project, "name": name, "entity": entity, "group": group, "tags": list(tags), "offline": offline,
            "init_timeout": init_timeout, "finish_timeout": finish_timeout,
        }  # fmt: skip
        self._session: Session | None = None

    def session(self, **facts: Any) -> Session:
        """Returns the session; the first call creates it, with `facts` as further arguments of `Session`."""
        if self._session is None:
            own: dict[str, Any] = {"folder": Path(self.save_dir)} | self._facts | facts
            self._session = Session(**own)
        return self._session

    @property
    def experiment(self) -> Any:
        return _Deferred(self.session())

    def begin(self, record: RunRecord, resumed: bool) -> None:
        """Starts a W&B run of type train, adapt (a router) or evaluate (other commands). Resumed runs keep their id."""
        if record.command == "train":
            job = "train" if record.settings["stage1"] is None else "adapt"
            self.session(job_type=job, resumed=resumed)
            return
        group = {} if record.group is None else {"group": record.group}
        self.session(job_type="evaluate", folder=record.folder, name=record.name, **group)

    def record(self, record: RunRecord) -> None:
        """Logs the summary, tables and figures (as `<command>/<name>`), and artifacts, written or used."""
        session = self.session()
        if record.summary:
            session.do(lambda run: run.summary.update(dict(record.summary)))
        if record.tables or record.figures:
            session.do(functools.partial(_log_shown, record=record))
        for artifact in record.artifacts:
            make = ARTIFACTS[artifact.kind]
            if artifact.written:
                session.do(lambda run, make=make, artifact=artifact: run.log_artifact(make(artifact)))
            elif artifact.kind != "model" or run_id(artifact.folder):
                session.do(functools.partial(_use, made=make, source=artifact))

    def finish(self, failed: bool) -> None:
        """Ends the W&B run within a limited time; prints the command that sends the remaining data."""
        self.session().finish(failed)


def _log_shown(run: Any, record: RunRecord) -> None:
    import wandb

    shown = {name: wandb.Table(dataframe=frame) for name, frame in record.tables.items()}
    shown |= {name: wandb.Image(str(path)) for name, path in record.figures.items()}
    run.log({f"{record.command}/{name}": value for name, value in shown.items()})


def _use(run: Any, made: Callable[[Artifact], Any], source: Artifact) -> None:
    """Logs an artifact as an input of a run. Offline the library has only a private method for this."""
    artifact = made(source)
    if run.offline:
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)


def _say(words: str) -> None:
    print(f"W&B: {words}\n", end="", flush=True)


def _wandb_reason(error: Exception) -> str:
    """First line of an exception, redacted, of at most 100 characters."""
    words = redact(str(error)).strip().splitlines()
    return f"{words[0]:.100}" if words else type(error).__name__


def _is_lost(error: Exception) -> bool:
    """Whether an error means that wandb-core, the process behind the library, has ended."""
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return isinstance(error, ConnectionError | HandleAbandonedError | MailboxClosedError)


def _service() -> subprocess.Popen | None:
    """The wandb-core process of this process, or None. The library has no public name for it."""
    from wandb.sdk import wandb_setup

    with contextlib.suppress(Exception):
        return wandb_setup.singleton().assert_service()._proc._process


def _forget_service() -> None:
    """Stops wandb-core, so that the library starts a new one."""
    import wandb

    process = _service()
    with contextlib.suppress(Exception, SystemExit):  # raised if wandb-core has already ended
        wandb.teardown()
    if process is not None:
        process.wait()
