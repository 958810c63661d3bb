"""The command: exit codes, one line for each error, and nothing heavy loaded for the asking of help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A stranger's package that adds commands through the same door as ours.
SAMPLE = '''
"""Commands of a sample package."""
import os, signal, sys, time
from typing import Annotated
import typer
from foredraft_shared.errors import BackendMissing, LinkLost, PromptTooLong

arm = typer.Typer(help="Move an arm.")
joint = typer.Typer(help="Move one joint.")
arm.add_typer(joint, name="joint")

@arm.command()
def move(
    target: Annotated[str, typer.Argument()] = "home",
    speed: Annotated[float, typer.Option("--speed-mps", min=0)] = 1.0,
    names: Annotated[list[str], typer.Option("--name")] = [],
    slow: Annotated[bool, typer.Option("--slow/--fast")] = False,
) -> None:
    """Move it."""
    print(target, speed, ",".join(names), slow)

@joint.command()
def turn(angle: int = 5) -> None:
    """Turn it."""
    print(angle)

def fail(kind: str) -> None:
    """Fail in a way.

    Which one is the argument's."""
    if kind == "link":
        raise LinkLost("nobody answers\\n at tcp://x; start [bold]foredraft serve[/bold].")
    if kind == "steering":
        raise LinkLost("told \x1b[2J\x07 to clear the screen.")
    if kind == "prompt":
        raise PromptTooLong("too long; shorten it.")
    if kind == "missing":
        import surely_no_such_package
    if kind == "bug":
        {}["key"]
    if kind == "empty":
        raise LinkLost
    if kind == "file":
        open(os.devnull + "/file", "w")
    if kind == "disk":
        raise OSError(28, "No space left on device")
    if kind == "nowhere":
        open("/no/such/folder/file", "w")
    if kind == "network":
        raise ConnectionRefusedError(111, "Connection refused")
    if kind == "say":
        print("something")
    if kind == "letters":
        print("h\\u00e9llo")
    if kind == "pipe":
        for number in range(100_000):
            print(number)
    if kind == "wait":
        print("waiting", flush=True)
        time.sleep(30)
    if kind == "exit":
        raise typer.Exit(7)
'''
HEAVY = "import surely_no_such_package\n"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which a sample package with two groups, and one that cannot be imported, is installed."""
    site = tmp_path / "site"
    information = site / "sample-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: sample\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[foredraft.commands]\narm = sample_commands:arm\nfail = sample_commands:fail\nheavy = sample_heavy:heavy\n"
    )
    (site / "sample_commands.py").write_text(SAMPLE)
    (site / "sample_heavy.py").write_text(HEAVY)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FOREDRAFT_")}
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))  # these sources, wherever they lie
    return inherited | {"PYTHONPATH": path, "XDG_CONFIG_HOME": str(tmp_path / "config"), "COLUMNS": "200"}


def foredraft(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "foredraft_shared", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on standard error."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_version(environment: dict[str, str]) -> None:
    done = foredraft(environment, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("foredraft ")


def test_help_lists_every_group_and_imports_none(environment: dict[str, str]) -> None:
    program = (
        "import sys; from foredraft_shared.command import main; status = main(['--help'])\n"
        "heavy = {'torch', 'onnxruntime', 'transformers', 'zmq', 'sample_commands'}\n"
        "print(sorted(heavy & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for name in ("serve", "generate", "chat", "demo", "models", "link", "trace", "bench"):
        assert f" {name} " in done.stdout
    assert "Move an arm." in done.stdout
    assert "Fail in a way." in done.stdout


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("link", 1, "nobody answers at tcp://x; start [bold]foredraft serve[/bold]."),
        ("steering", 1, "error: told \N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER} to clear the screen."),
        ("prompt", 2, "too long; shorten it."),
        ("missing", 1, "needs surely_no_such_package, which is not installed; run: pip install 'sample-commands'"),
        ("bug", 1, "unexpected KeyError: 'key'; set FOREDRAFT_DEBUG=1"),
        ("empty", 1, "The peer does not answer, or nobody is there."),
        ("file", 1, "error: /dev/null/file: Not a directory; look at how the path is written, then try again."),
        ("disk", 1, "error: No space left on device; make room on the disk, then try again."),
        ("nowhere", 1, "error: /no/such/folder/file: No such file or directory; look at how the path"),
        ("network", 1, "unexpected ConnectionRefusedError"),
    ],
)
def test_every_error_is_one_line(environment: dict[str, str], kind: str, code: int, words: str) -> None:
    done = foredraft(environment, "fail", kind)
    assert done.returncode == code
    assert words in complaint(done)
    assert ("report" in done.stderr) == words.startswith("unexpected")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the full disk is Linux's")
def test_output_that_finds_no_room_is_one_line_and_errors_that_find_none_keep_their_code(
    environment: dict[str, str],
) -> None:
    command = [sys.executable, "-m", "foredraft_shared", "fail"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "say"], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == 1
        assert "No space left on device; make room" in complaint(done)  # type: ignore[arg-type]
        assert subprocess.run([*command, "prompt"], env=environment, stderr=full, check=False).returncode == 2
    reader, writer = os.pipe()
    os.close(reader)
    assert subprocess.run([*command, "prompt"], env=environment, stderr=writer, check=False).returncode == 2
    os.close(writer)


def test_the_trace_is_there_for_the_asking(environment: dict[str, str]) -> None:
    done = foredraft(environment | {"FOREDRAFT_DEBUG": "1"}, "fail", "bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "unexpected KeyError" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frial"], "No such command 'frial'. Did you mean 'fail'"),
        (["fail"], "See `foredraft fail --help`."),
        (["arm", "move", "--sped", "1"], "No such option: --sped"),
        (["arm", "move", "--speed-mps", "fast"], "Invalid value for '--speed-mps'"),
    ],
)
def test_usage_errors_are_one_line_and_exit_with_2(
    environment: dict[str, str], arguments: list[str], words: str
) -> None:
    done = foredraft(environment, *arguments)
    assert done.returncode == 2
    assert words in complaint(done)


def test_a_group_that_cannot_be_imported_says_what_to_install(environment: dict[str, str]) -> None:
    done = foredraft(environment, "heavy")
    assert done.returncode == 1
    assert "`foredraft heavy` needs surely_no_such_package" in complaint(done)


def test_an_exit_code_of_the_command_is_kept(environment: dict[str, str]) -> None:
    assert foredraft(environment, "fail", "exit").returncode == 7


def test_letters_that_the_terminal_has_not_are_no_error(environment: dict[str, str]) -> None:
    done = foredraft(environment | {"PYTHONIOENCODING": "ascii"}, "fail", "letters")
    assert (done.returncode, done.stdout, done.stderr) == (0, "h?llo\n", "")


def test_a_reader_that_leaves_is_no_error(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "foredraft_shared", "fail", "pipe"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


def test_interrupt_is_quiet_and_exits_with_130(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "foredraft_shared", "fail", "wait"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == b""
    assert time.monotonic() - started < 10


def test_an_interrupt_before_there_is_a_command_line_is_quiet_too() -> None:
    program = (
        "import signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'foredraft_shared.command': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from foredraft_shared.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, b"")


# --- where values come from


def write_config(environment: dict[str, str], text: str) -> Path:
    path = Path(environment["XDG_CONFIG_HOME"], "foredraft", "config.toml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_precedence(environment: dict[str, str]) -> None:
    assert foredraft(environment, "arm", "move").stdout == "home 1.0  False\n"
    write_config(
        environment,
        '[arm.move]\nspeed-mps = 2\ntarget = "file"\nname = ["a", "b"]\nslow = true\n[arm.joint.turn]\nangle = 9',
    )
    assert foredraft(environment, "arm", "move").stdout == "file 2.0 a,b True\n"
    assert foredraft(environment, "arm", "joint", "turn").stdout == "9\n"
    environment |= {
        "FOREDRAFT_ARM_MOVE_SPEED_MPS": "3",
        "FOREDRAFT_ARM_MOVE_TARGET": "environment",
        "FOREDRAFT_ARM_MOVE_NAME": "c",
        "FOREDRAFT_ARM_MOVE_SLOW": "false",
        "FOREDRAFT_ARM_JOINT_TURN_ANGLE": "8",
    }
    assert foredraft(environment, "arm", "move").stdout == "environment 3.0 c False\n"
    assert foredraft(environment, "arm", "joint", "turn").stdout == "8\n"
    line = foredraft(environment, "arm", "move", "line", "--speed-mps", "4", "--name", "d", "--slow")
    assert line.stdout == "line 4.0 d True\n"
    assert foredraft(environment, "arm", "joint", "turn", "--angle", "7").stdout == "7\n"


def test_a_named_file_stands_in_for_the_users_own(environment: dict[str, str], tmp_path: Path) -> None:
    write_config(environment, "[arm.joint.turn]\nangle = 1")
    named, in_environment = tmp_path / "named.toml", tmp_path / "environment.toml"
    named.write_text("[arm.joint.turn]\nangle = 3")
    in_environment.write_text("[arm.joint.turn]\nangle = 2")
    turn = ("arm", "joint", "turn")
    assert foredraft(environment, *turn).stdout == "1\n"
    environment["FOREDRAFT_CONFIG"] = str(in_environment)
    assert foredraft(environment, *turn).stdout == "2\n"
    assert foredraft(environment, "--config", str(named), *turn).stdout == "3\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[arn.move]\nspeed-mps = 1", "there is no command `arn`; perhaps you mean `arm`."),
        ("arm = 3", "`arm` is a command; write its options in a table [arm]."),
        ("[arm.move]\nspeed = 1", "[arm.move] has no option `speed`; perhaps you mean `speed-mps`."),
        ("[arm.jont]\nangle = 1", "[arm] has no command `jont`; perhaps you mean `joint`."),
        ("[arm\n", "is not TOML"),
        ('[arm.move]\nspeed-mps = "fast"', "from the configuration file"),
    ],
)
def test_mistakes_in_the_file_are_named(environment: dict[str, str], text: str, words: str) -> None:
    write_config(environment, text)
    done = foredraft(environment, "arm", "move")
    assert done.returncode == 2
    assert words in complaint(done)


def test_a_file_that_is_not_text_is_named(environment: dict[str, str]) -> None:
    write_config(environment, "").write_bytes(b"\xff\xfe")
    assert "is not UTF-8 at byte 0" in complaint(foredraft(environment, "arm", "move"))


def test_a_bad_value_in_the_environment_is_named(environment: dict[str, str]) -> None:
    done = foredraft(environment | {"FOREDRAFT_ARM_MOVE_SPEED_MPS": "fast"}, "arm", "move")
    assert done.returncode == 2
    assert "(from FOREDRAFT_ARM_MOVE_SPEED_MPS)" in complaint(done)


def test_help_names_the_twin_in_the_environment(environment: dict[str, str]) -> None:
    assert "FOREDRAFT_ARM_MOVE_SPEED_MPS" in foredraft(environment, "arm", "move", "--help").stdout
