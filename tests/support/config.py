"""What a daemon's configuration is, and an App of this process that has one."""

from __future__ import annotations

import json
from contextlib import contextmanager

from vbdev.daemon.app import App
from vbdev.daemon.config import read_config


@contextmanager
def fresh_app(num_reactors=1):
    """Yield an App without bdevs, and end it in order."""
    app = App(num_reactors=num_reactors)
    try:
        yield app
    finally:
        app.reactor.run_until_complete(app.stop())
        app.close()


def call(app, method, **params):
    """Call a method with no socket in between; what msgspec renders, as JSON."""
    result = app.reactor.run_until_complete(app.dispatcher.call(method, params or None))
    return json.loads(json_of(result))


def json_of(result):
    """Return a result as the server renders it."""
    import msgspec

    return msgspec.json.encode(result)


def save(app):
    """Return what `spdk-rpc save_config` would write."""
    subsystems = [
        {"subsystem": one["subsystem"], "config": call(app, "framework_get_config", name=name)}
        for one in call(app, "framework_get_subsystems")
        for name in [one["subsystem"]]
    ]
    return json.dumps({"subsystems": subsystems}, indent=2)


def load(app, text, path, **options):
    """Carry out a configuration as `vbdev serve --config` does, through a file."""
    path.write_text(text)
    app.begin_config(read_config(str(path)), **options)
    app.finish_config()
