"""Channels, controls and tasks of other people: from a module named with --plugin, or an installed distribution."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.lm_eval_bridge.__main__ import plugins_in
from harness.paths import PAIR, ROOT
from harness.registry import load_plugins
from tests.support.relay import LETTERS_FILE

MODULE = '''
from harness.channels.control_registry import ControlEntry
from harness.channels.registry import CHANNELS, ChannelEntry, Options
from harness.benchmarks.registry import TaskEntry


class EchoOptions(Options):
    loud: bool = False
    """Say it in capitals."""


def build(models, options):
    from harness.channels.interface import Group
    from harness.channels.single import Single

    return [Group(Single(models.receiver, "echo", f"loud {options.loud}"))]


CHANNELS.add(ChannelEntry("echo", "says it again", build=build, options=EchoOptions))
entries = [
    ControlEntry("upside_down", "the message the other way round", text="no_such:function"),
    TaskEntry("echoes", FOLDER),
]
'''
TASK = """
task: echo_task
dataset_path: json
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plug-in's file, named so that no other test's module has its name."""
    tasks = tmp_path / "benchmarks"
    tasks.mkdir()
    (tasks / "echo.yaml").write_text(TASK)
    path = tmp_path / "echo_plugin.py"
    path.write_text(f"FOLDER = {str(tasks)!r}\n{MODULE}")
    return path


def command(*arguments: str, cwd: Path, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Runs the command line apart, since what a plug-in registers stays for the life of a process."""
    code = "import sys; from harness.cli import main; sys.exit(main())"
    found = {"PYTHONPATH": ":".join(map(str, (ROOT, *path))), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, env=found, check=False, capture_output=True, text=True
    )


def installed(folder: Path, plugin: Path) -> Path:
    """A folder on the path that looks as if a distribution with the plug-in's entries were installed there."""
    site = folder / "site"
    facts = site / "echo_dist-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: echo-dist\nVersion: 1.0\n")
    groups = {"channels": "echo = echo_entries:ECHO", "controls": "upside_down = echo_entries:DOWN"}
    groups["tasks"] = "echoes = echo_entries:TASKS"
    points = [f"[c2c_harness.{group}]\n{line}\n" for group, line in groups.items()]
    (facts / "entry_points.txt").write_text("\n".join(points))
    text = plugin.read_text().replace("CHANNELS.add(ChannelEntry(", "ECHO = (ChannelEntry(")
    (site / "echo_entries.py").write_text(f"{text}\nDOWN, TASKS = entries\n")
    return site


@pytest.mark.parametrize("way", ["path", "module", "distribution"])
def test_what_others_bring_is_listed_and_marked(plugin: Path, way: str) -> None:
    flags = {"path": ["--plugin", str(plugin)], "module": ["--plugin=echo_plugin"], "distribution": []}[way]
    path = (installed(plugin.parent, plugin),) if way == "distribution" else ()
    mark = {"path": f"plug-in {plugin}", "module": "plug-in echo_plugin", "distribution": "echo-dist"}[way]
    for what, line in (
        ("channels", f"says it again  ({mark})"),
        ("controls", f"the other way round  ({mark})"),
        ("tasks", f"echo_task  ({mark})"),
    ):
        ended = command("ls", what, *flags, cwd=plugin.parent, path=path)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert line in ended.stdout
    assert "echo [:loud]" in command("ls", "channels", *flags, cwd=plugin.parent, path=path).stdout


def test_a_channel_with_a_name_and_a_builder_alone_runs_and_is_shown(plugin: Path) -> None:
    out, flags = plugin.parent / "run", ["--plugin", str(plugin)]
    ended = command(
        "run", *flags, "--channels", "receiver,echo,echo:loud", "--tasks", LETTERS_FILE,
        "--limit", "4", "--latency_samples", "1", "--no-progress", "--device", "cpu", "--output_path", str(out),
        cwd=plugin.parent,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["channels"] == ["receiver", "echo", "echo:loud"]
    code = hashlib.sha256(plugin.read_bytes()).hexdigest()
    assert record["identity_fields"]["plugins"] == {"channel echo": code}
    rows = {row["channel"]: row for row in record["results"] if row["model_pass"]}
    assert rows["echo"]["accuracy"] == rows["echo:loud"]["accuracy"] == rows["receiver"]["accuracy"]
    assert (rows["echo"]["variant"], rows["echo:loud"]["variant"]) == ("loud False", "loud True")
    assert (out / "lm_eval" / "results_echo-loud.json").is_file()
    pages = ["--html", str(out / "page.html"), "--plots", str(out / "plots")]
    assert command("report", str(out), *pages, cwd=plugin.parent).returncode == 0  # also where nobody knows it
    assert command("report", *flags, str(out), "--compare", "echo,echo:loud", cwd=plugin.parent).returncode == 0
    assert command("check", *flags, str(out), str(out), "--no-latency", cwd=plugin.parent).returncode in (0, 3)
    again = command("resume", str(out), cwd=plugin.parent)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "Unknown channel 'echo'" in again.stderr


def test_any_channel_is_a_model_behind_lm_eval(plugin: Path) -> None:
    code = (
        "import sys; from harness.lm_eval_bridge.__main__ import plugins_in, load_plugins;"
        "load_plugins(plugins_in(sys.argv[1:]));"
        "import harness.lm_eval_bridge.model; from lm_eval.api.registry import get_model;"
        "lm = get_model('echo').create_from_arg_string(sys.argv[1]); print(lm.channel.name, lm.channel.variant)"
    )
    arguments = f"receiver={PAIR / 'receiver'},plugin={plugin},loud=True,device=cpu"
    ended = subprocess.run(
        [sys.executable, "-c", code, arguments], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert ended.stdout.strip().splitlines()[-1:] == ["echo:loud loud True"], ended.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module_here", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("1 / 0", "ZeroDivisionError"),
        ("def", "SyntaxError"),
        ("x = 1", "registers nothing"),
        ("entries = [3]", "lists 3, which is no entry"),
        (
            "from harness.channels.registry import ChannelEntry\nentries = [ChannelEntry('c2c', 'mine', build='m:b')]",
            "Two entries are named channel 'c2c'",
        ),
    ],
)
def test_a_plugin_that_cannot_be_used_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "broken_plugin.py").write_text(text)
    ended = command("ls", "channels", "--plugin", "broken_plugin", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    for name in ("no_such_plugin", str(tmp_path / "none.py")):
        with pytest.raises(UserError, match="cannot be imported"):
            load_plugins([name])


def test_lm_evals_arguments_name_plugins() -> None:
    assert plugins_in(["run", "--model_args", "receiver=a,plugin=x;y.py", "--tasks", "t"]) == ["x", "y.py"]
    assert plugins_in(["--model_args=plugin=x,receiver=a"]) == ["x"]
    assert plugins_in(["--model_args", "receiver=a"]) == []


def test_the_entries_that_a_module_holds_are_enough() -> None:
    example = ROOT / "examples" / "plugin_channel" / "kvcomm_channel.py"
    ended = command("ls", "channels", "--plugin", str(example), cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    assert "kvcomm" in ended.stdout
    ended = command("ls", "controls", "--plugin", str(example), cwd=ROOT)
    assert "last_token" in ended.stdout
