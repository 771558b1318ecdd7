import argparse
import shlex
import subprocess
import sys

import pytest

from harness.cli.parser import Parser
from harness.cli.run_flags import configuration
from harness.config.identity import kinds
from harness.errors import UserError
from harness.training.main import how_to_run
from harness.training.recipe import Recipe, add_arguments, build, from_options, identity

PAIR = ["--receiver", "r", "--sharer", "s", "--output-path", "out"]


def parsed(*flags):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_options(parser.parse_args([*PAIR, *flags]))


def test_the_papers_recipe_is_the_default():
    found = parsed()
    assert (found.data, found.max_rows, found.max_length) == ("teknium/OpenHermes-2.5", 500_000, 2048)
    assert (found.global_batch, found.learning_rate, found.schedule, found.warm_up) == (256, 1e-4, "linear", 0.1)
    assert (found.weight_decay, found.grad_norm, found.dropout) == (0.01, 1.0, 0.1)
    assert (found.initial_temperature, found.final_temperature) == (1.0, 0.001)
    assert (found.hidden_dim, found.intermediate_dim, found.num_layers) == (1024, 1024, 3)


def test_flags_are_laid_over_a_file(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("learning-rate: 3e-4\nseed: 5\nalignment: off\nsharers: [a, b]\n")
    found = parsed("--config", str(file), "--seed", "7")
    assert (found.learning_rate, found.seed, found.alignment, found.sharers) == (3e-4, 7, "off", ("s",))
    assert parsed("--sharer", "a,b", "--no-progress", "--resume").sharers == ("s", "a", "b")


@pytest.mark.parametrize("name", sorted(Recipe.model_fields))
def test_every_field_has_a_flag_a_help_text_and_a_kind(name):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    actions = {action.dest: action for action in parser._actions}
    assert actions[name].help
    assert name in kinds(Recipe)


def test_what_only_speeds_up_takes_no_part_in_the_identity():
    assert identity(parsed()) == identity(parsed("--gradient-checkpointing", "--save-every", "3"))
    assert identity(parsed()) != identity(parsed("--micro-batch", "8"))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--schedule", "cosin"], "schedule is 'cosin'"),
        (["--global-batch", "10"], "global_batch 10 is no multiple of micro_batch 4"),
        (["--dropout", "1"], "dropout is"),
        (["--steps", "0"], "steps is '0', but has to be at least 1"),
        (["--learning-rate", "nan"], "learning_rate is"),
        (["--init", "a", "--init", "b"], "init names 2 fusers for 1 sharers"),
        (["--config", "/nowhere.yaml"], "Cannot read the recipe /nowhere.yaml"),
    ],
)
def test_what_is_not_allowed_is_one_sentence(flags, said):
    with pytest.raises(UserError, match=said):
        parsed(*flags)


def test_unknown_keys_and_missing_models_are_named(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("learning_rat: 1\n")
    with pytest.raises(UserError, match=r"unknown key 'learning_rat'. Did you mean 'learning_rate'\?"):
        parsed("--config", str(file))
    file.write_text("- 1\n")
    with pytest.raises(UserError, match="holds a list"):
        parsed("--config", str(file))
    with pytest.raises(UserError, match="sharers is empty"):
        build({"receiver": "r", "sharers": [], "output_path": "x"})
    with pytest.raises(UserError, match="receiver is missing"):
        build({"sharers": ["s"], "output_path": "x"})


def test_the_flags_are_there_without_torch():
    code = (
        "import argparse, sys\nfrom harness.training.main import add_arguments\n"
        "add_arguments(argparse.ArgumentParser())\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_resumed_training_has_the_recipe_of_its_folder(tmp_path):
    begun = build({"receiver": "r", "sharers": ["s"], "output_path": "elsewhere", "steps": 7, "learning_rate": 1e-5})
    (tmp_path / "recipe.json").write_text(begun.model_dump_json())

    def resumed(*flags):
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        return from_options(parser.parse_args(["--resume", "--output_path", str(tmp_path), *flags]))

    found = resumed()
    assert (found.receiver, found.steps, found.learning_rate, found.resume) == ("r", 7, 1e-5, True)
    assert found.output_path == str(tmp_path)
    agreeing = resumed("--steps", "7", "--learning-rate", "0.00001", "--gradient-checkpointing")
    assert agreeing.gradient_checkpointing
    with pytest.raises(UserError, match="begun with another receiver, steps"):
        resumed("--steps", "8", "--receiver", "other")
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(UserError, match="receiver is missing"):
        resumed()


@pytest.mark.parametrize(
    ("flags", "task"),
    [
        (("--prompt-of", "relay_one"), "relay_one"),
        (("--validate_task", "relay_one,relay_crowd"), "relay_one,relay_crowd"),
        ((), "TASK"),
    ],
)
def test_the_command_that_runs_what_was_trained_is_read_as_it_is_printed(flags, task, tmp_path):
    line = how_to_run(parsed(*flags, "--trust_remote_code"), [tmp_path / "fuser"])
    assert ("TASK being one" in line) == (task == "TASK")
    words = shlex.split(line.rpartition(": ")[2])
    assert words[:2] == ["c2c-harness", "run"]
    config = configuration(Parser("run"), words[2:])
    assert (config.receiver, config.sharers, config.fusers) == ("r", ("s",), (str(tmp_path / "fuser"),))
    assert (",".join(config.tasks), config.trust_remote_code) == (task, True)
