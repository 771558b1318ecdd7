"""Channels, controls and tasks of other people: from a module named with --plugin, or an installed distribution."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.evaluation.plugin_code import refuse_lacking
from harness.lm_eval_bridge.__main__ import plugins_in
from harness.paths import PAIR, ROOT
from harness.registry import load_plugins
from tests.support.processes import command, ended, forked
from tests.support.regression_runs import record
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


def listed(*subjects: str, cwd: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Lists subjects in an interpreter of its own, since distributions are found but once in the life of a process."""
    code = "import sys; from harness.cli import main; sys.exit(max(main(['ls', what]) for what in sys.argv[1:]))"
    found = {"PYTHONPATH": f"{ROOT}:{site}", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *subjects], cwd=cwd, env=found, check=False, capture_output=True, text=True
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


LINES = {
    "channels": ("says it again  ({})", "echo [:loud]"),
    "controls": ("the other way round  ({})",),
    "tasks": ("echo_task  ({})",),
}


@pytest.mark.parametrize("way", ["path", "module"])
def test_what_a_plugin_brings_is_listed_and_marked(plugin: Path, way: str) -> None:
    named = {"path": str(plugin), "module": "echo_plugin"}[way]
    for what, lines in LINES.items():
        done = command("ls", what, "--plugin", named, cwd=plugin.parent)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(line.format(f"plug-in {named}") in done.stdout for line in lines)


def test_what_an_installed_distribution_brings_is_listed_and_marked(plugin: Path) -> None:
    done = listed(*LINES, cwd=plugin.parent, site=installed(plugin.parent, plugin))
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line.format("echo-dist") in done.stdout for lines in LINES.values() for line in lines)


def test_a_channel_with_a_name_and_a_builder_alone_runs_and_is_shown(plugin: Path) -> None:
    out, flags = plugin.parent / "run", ["--plugin", str(plugin)]
    done = command(
        "run", *flags, "--channels", "receiver,echo,echo:loud", "--tasks", LETTERS_FILE,
        "--limit", "4", "--latency_samples", "1", "--no-progress", "--device", "cpu", "--output_path", str(out),
        cwd=plugin.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
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
    assert f"(channel echo), which is not here; give --plugin {plugin}." in again.stderr


def naming(arguments: str, answer: Path) -> int:
    """Notes the name and the variant of the channel that lm-eval builds."""
    load_plugins(plugins_in([arguments]))
    from lm_eval.api.registry import get_model

    import harness.lm_eval_bridge.model

    lm = get_model("echo").create_from_arg_string(arguments)
    assert isinstance(lm, harness.lm_eval_bridge.model.ChannelLM)
    answer.write_text(f"{lm.channel.name} {lm.channel.variant}")
    return 0


def test_any_channel_is_a_model_behind_lm_eval(plugin: Path) -> None:
    arguments = f"receiver={PAIR / 'receiver'},plugin={plugin},loud=True,device=cpu"
    said, answer = plugin.with_name("said"), plugin.with_name("answer")
    assert ended(forked(naming, arguments, answer, said=said)) == 0, said.read_text()
    assert answer.read_text() == "echo:loud loud True"


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
    done = command("ls", "channels", "--plugin", "broken_plugin", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [("\ndef f(:\n", "SyntaxError: "), ("\nimport no_such_module\n", "No module named 'no_such_module'")],
)
def test_a_broken_file_is_told_where_it_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_file.py").write_text(text)
    with pytest.raises(UserError, match=f"{said}.*Mend it in line 2\\.$"):
        load_plugins(["./broken_file.py"])


def test_a_run_that_lacks_its_plugin_names_it() -> None:
    brought = {"plugins": {"control upside_down": "0" * 64, "control mean": "0" * 64}}
    lacking = record(identity_fields=brought, command=["run", "--plugin", "mine.py", "--limit", "3"])
    with pytest.raises(UserError, match=r"\(control upside_down\), which is not here; give --plugin mine\.py\.$"):
        refuse_lacking(lacking)
    refuse_lacking(record())


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
    done = command("ls", "channels", "--plugin", str(example), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "kvcomm" in done.stdout
    done = command("ls", "controls", "--plugin", str(example), cwd=ROOT)
    assert "last_token" in done.stdout
