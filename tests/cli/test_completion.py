"""Shell completion, in real shells: what stands on the line after a TAB."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

from support.clients import requires
from vbdev.cli.complete import candidates
from vbdev.cli.completion import SCRIPTS

SETUP = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        'PS1="ready> "; bind "set enable-bracketed-paste off"; eval "$(vbdev completion bash)"',
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "PS1='ready> '; autoload -Uz compinit; compinit -u -D; eval \"$(vbdev completion zsh)\"",
    ),
}
WAIT_S = 20


class Shell:
    """An interactive shell on a terminal, in which `vbdev` tells how it was called."""

    def __init__(self, name, directory):
        requires(name)
        # What it completes is real; what it would run shows its words instead.
        program = directory / "vbdev"
        program.write_text(
            "#!/bin/sh\n"
            'case "$1 $2" in\n'
            f'  "__complete "*|"completion {name}") exec "{sys.executable}" -m vbdev "$@" ;;\n'
            "  *) printf 'CALLED'; printf '<%s>' \"$@\"; echo . ;;\n"
            "esac\n"
        )
        program.chmod(0o755)
        (directory / "one_disk.img").touch()
        command, setup = SETUP[name]
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            path = f"{directory}:{os.environ['PATH']}"
            env = os.environ | {
                "PATH": path,
                "TERM": "dumb",
                "XDG_RUNTIME_DIR": str(directory),
                "INPUTRC": "/dev/null",
                "HOME": str(directory),
            }
            os.execvpe(command[0], command, env)
        self.seen = ""
        self.send(f"{setup}; echo SET''UP\n")
        self.wait_for("SETUP")

    def send(self, text):
        os.write(self.fd, text.encode())

    def wait_for(self, pattern):
        """Read until the pattern has come; return the match, and forget what came up to it."""
        deadline = time.monotonic() + WAIT_S
        while not (found := re.search(pattern, self.seen)):
            assert select.select([self.fd], [], [], deadline - time.monotonic())[0], self.seen
            self.seen += os.read(self.fd, 1 << 16).decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found

    def complete(self, line):
        """Type a line, a TAB, RETURN; return the words that vbdev would have been called with."""
        # What a shell shows is drawn and drawn anew, so the program says what it was given.
        self.send(f"vbdev {line}\t")
        time.sleep(0.05)
        self.send("\n")
        called = self.wait_for(r"CALLED((?:<[^>]*>)*)\.")[1]
        return re.findall(r"<([^>]*)>", called)

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture(params=["bash", "zsh"])
def shell(request, tmp_path):
    made = Shell(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def daemon(serve):
    daemon = serve("malloc:1MiB", "--layer", "passthru")
    daemon.rpc.call("bdev_malloc_create", name="One Disk", num_blocks=8, block_size=512)
    return daemon


def test_words_of_the_command_line(shell):
    assert shell.complete("ser") == ["serve"]
    assert shell.complete("serve --wait") == ["serve", "--wait-for-rpc"]
    assert shell.complete("serve --log-level w") == ["serve", "--log-level", "warning"]
    assert shell.complete("serve one_d") == ["serve", "one_disk.img"]
    assert shell.complete("serve --config ./one") == ["serve", "--config", "./one_disk.img"]
    assert shell.complete("completion f") == ["completion", "fish"]


def test_words_of_rpc_without_a_daemon(shell):
    assert shell.complete("rpc bdev_malloc_c") == ["rpc", "bdev_malloc_create"]
    iostat = ["rpc", "bdev_get_iostat"]
    assert shell.complete("rpc bdev_get_iostat per") == [*iostat, "per_channel="]
    assert shell.complete("rpc bdev_get_iostat per_channel=t") == [*iostat, "per_channel=true"]
    assert shell.complete("rpc bdev_get_iostat reset_mode=max") == [*iostat, "reset_mode=maxmin"]
    assert shell.complete("rpc bdev_get_bdevs name=Mal") == ["rpc", "bdev_get_bdevs", "name=Mal"]


def test_bdevs_of_the_daemon(shell, daemon):
    get = ["rpc", "-s", daemon.rpc_socket, "bdev_get_bdevs"]
    line = f"rpc -s {daemon.rpc_socket} bdev_get_bdevs"
    assert shell.complete(f"{line} name=Mal") == [*get, "name=Malloc0"]
    assert shell.complete(f"{line} ti") == [*get, "timeout="]
    assert shell.complete(f"{line} timeout=5 na") == [*get, "timeout=5", "name="]
    aio = ["rpc", "-s", daemon.rpc_socket, "bdev_aio_create"]
    line = f"rpc -s {daemon.rpc_socket} bdev_aio_create"
    assert shell.complete(f"{line} filename=one_d") == [*aio, "filename=one_disk.img"]
    assert shell.complete(f"{line} filename=./one") == [*aio, "filename=./one_disk.img"]


def test_a_bdev_that_has_to_be_quoted(shell, daemon):
    get = ["rpc", "-s", daemon.rpc_socket, "bdev_get_bdevs"]
    line = f"rpc -s {daemon.rpc_socket} bdev_get_bdevs"
    assert shell.complete(f"{line} name=On") == [*get, "name=One Disk"]


def test_fish(tmp_path, daemon):
    requires("fish")
    program = tmp_path / "vbdev"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vbdev "$@"\n')
    program.chmod(0o755)
    (tmp_path / "one_disk.img").touch()

    def complete(line):
        done = subprocess.run(
            ["fish", "--no-config", "-c", 'vbdev completion fish | source; complete -C "$LINE"'],
            env=os.environ
            | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LINE": line, "HOME": str(tmp_path)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=WAIT_S,
        )
        return [line.partition("\t")[0] for line in done.stdout.splitlines()]

    assert complete("vbdev ser") == ["serve"]
    assert complete("vbdev serve --wait") == ["--wait-for-rpc"]
    assert complete("vbdev serve one_d") == ["one_disk.img"]
    line = f"vbdev rpc -s {daemon.rpc_socket} bdev_get_bdevs"
    assert complete(f"{line} name=M") == ["name=Malloc0"]
    assert complete(f"{line} ") == ["name=", "timeout="]
    line = f"vbdev rpc -s {daemon.rpc_socket} bdev_aio_create"
    assert complete(f"{line} filename=one_d") == ["filename=one_disk.img"]
    assert complete(f"{line} filename=./one_d") == ["filename=./one_disk.img"]
    assert complete("vbdev rpc bdev_get_iostat reset_mode=ma") == ["reset_mode=maxmin"]


# What the scripts ask


def words(*typed):
    return [word for word, _ in candidates(list(typed))]


def test_what_is_given_is_not_offered_again(tmp_path):
    none = f"--rpc-socket={tmp_path / 'none.sock'}"
    assert words("rpc", none, "bdev_get_bdevs", "name=x", "") == ["timeout="]
    required, *rest = candidates(["rpc", none, "bdev_malloc_create", ""])
    assert required[0] == "num_blocks="
    assert "name=" in [word for word, _ in rest]
    assert words("rpc", none, "no_such_method", "") == []
    assert words("rpc", none, "bdev_get_bdevs", "no_such_parameter=") == []
    assert words("rpc", "--timeout", "") == []
    assert words("no_such_command", "") == words("") != []
    assert words() == words("")


def test_a_module_of_the_daemon_is_offered(serve, tmp_path):
    (tmp_path / "tint_to_complete.py").write_text(
        "from vbdev.bdev import VirtualBdev\n\n\nclass Tint(VirtualBdev):\n    kind = 'tint'\n"
    )
    daemon = serve("--module", tmp_path / "tint_to_complete.py")
    assert words("rpc", "-s", daemon.rpc_socket, "bdev_tint") == [
        "bdev_tint_create",
        "bdev_tint_delete",
    ]


def offered(*words):
    return [word for word, _ in candidates(list(words))]


def test_each_place_has_its_words():
    assert offered("config", "") == ["check"]
    assert offered("config", "check", "") == [":files"]
    assert offered("config", "check", "--json", "c.json", "") == []
    assert offered("completion", "") == ["bash", "zsh", "fish"]
    assert offered("log", "") == ["show", "verify", "replay", "trim"]
    assert offered("log", "replay", "") == offered("log", "replay", "a.log", "") == [":files"]
    assert offered("log", "show", "a.log", "") == []
    assert offered("log", "show", "--j") == ["--json"]
    assert offered("crash", "") == ["explore", "make", "verify"]
    assert offered("crash", "verify", "a.log", "") == [":files"]


def test_an_option_is_offered_by_each_of_its_long_names():
    assert offered("serve", "--js") == ["--json", "--json-ignore-init-errors"]
    assert offered("spdk-tgt", "--con") == ["--config"]
    assert "-f" in offered("spdk-tgt", "-")


def test_it_never_complains():
    """Whatever is on the line: no output where there is nothing to say, and no traceback."""
    for typed in (
        ["rpc", "-s", "unix:", "x", "y=", ""],
        ["serve", "--nbd", ""],
        ["\x1b", "\t"],
        [],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "vbdev", "__complete", *typed],
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_S,
        )
        assert done.stderr == ""


def test_a_daemon_that_does_not_answer_costs_little(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "mute.sock"))
    listener.listen()
    began = time.monotonic()
    assert words("rpc", "-s", str(tmp_path / "mute.sock"), "spdk_get_v") == ["spdk_get_version"]
    assert time.monotonic() - began < 5
    listener.close()


def test_names_that_would_break_a_shell_are_left_out(serve):
    """A line feed in a name would be a candidate of its own."""
    daemon = serve()
    path = daemon.rpc_socket
    for name in ("Good", "Bad\nrm -rf", "Tab\tbed", "$(reboot)"):
        daemon.rpc.call("bdev_malloc_create", name=name, num_blocks=8, block_size=512)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "vbdev",
            "__complete",
            *f"rpc -s {path} bdev_get_bdevs name=".split(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert found == ["name=Good", "name=$(reboot)"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_what_their_shells_read(name, tmp_path):
    requires(name)
    (tmp_path / "script").write_text(SCRIPTS[name])
    subprocess.run([name, "-n", tmp_path / "script"], check=True, timeout=WAIT_S)
