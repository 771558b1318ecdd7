"""lm-eval through our models says what it says through its own `hf` model, with fewer forward tokens."""

from __future__ import annotations

import functools
import json
import math
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from harness.errors import RunError, UserError
from harness.lm_eval_bridge.model import ChannelLM, FusedLM, SingleLM, TextLM
from harness.paths import PAIR, ROOT
from tests.support.processes import ended, forked
from tests.support.relay import LETTERS, LETTERS_FILE, WORDS
from tests.support.tiny import GOLDEN, OURS

MODEL = str(GOLDEN / OURS)
PAIR_ARGUMENTS = {n: str(PAIR / n) for n in ("receiver", "sharer", "fuser")}
MAX_NEW_TOKENS = 8
ROWS = [
    ("Why is the sky blue?", ["because of dust", "Rayleigh scattering", "the sea mirrors it", "nobody knows"], 1),
    ("Where does the river end?", ["in the hills far north", "in a lake", "in the sea", "under the old bridge"], 2),
    ("What does café mean?", ["a coffee house", "bread", "a sort of naïve painting", "北京"], 0),
    ("Two and two make", ["three or so", "four", "twenty two, at the very least", "a pair"], 1),
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
metadata: {{version: 1}}
"""
CHOICE = """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{key}}"
metric_list: [{metric: acc}]
"""
WRITTEN = f"""
output_type: generate_until
doc_to_target: "{{{{choices[key]}}}}"
generation_kwargs: {{until: ["\\n\\n"], do_sample: false, max_gen_toks: {MAX_NEW_TOKENS}}}
metric_list: [{{metric: exact_match}}]
"""


@functools.cache
def stock(model: str = MODEL) -> Any:
    return HFLM(pretrained=model, device="cpu", batch_size=2, dtype="float32")


@functools.cache
def ours(batch_size: str = "2", model: str = MODEL) -> SingleLM:
    return SingleLM(receiver=model, device="cpu", dtype="float32", batch_size=batch_size)


@functools.cache
def pair() -> FusedLM:
    return FusedLM(**PAIR_ARGUMENTS, device="cpu", batch_size=4)


@functools.cache
def texts(**options: bool) -> TextLM:
    names = ("receiver", "sharer")
    return TextLM(**{n: PAIR_ARGUMENTS[n] for n in names}, device="cpu", batch_size=4, max_new_tokens=4, **options)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A task of four options of several tokens each, and the same questions to be answered in words."""
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "rows.jsonl"
    rows = [json.dumps({"question": q, "choices": c, "key": k}) for q, c, k in ROWS]
    data.write_text("\n".join(rows) + "\n", encoding="utf-8")
    for name, rest in (("options", CHOICE), ("words", WRITTEN), ("mutual", MUTUAL)):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data) + rest)
    return TaskManager(include_path=str(folder), include_defaults=False)


def evaluated(lm: Any, task: str, tasks: Any, **more: Any) -> dict[str, Any]:
    found = simple_evaluate(
        model=lm, tasks=[task], task_manager=tasks, bootstrap_iters=0, log_samples=True, verbosity="ERROR", **more
    )
    return dict(found)


def responses(found: dict[str, Any], task: str) -> list[Any]:
    ordered = sorted(found["samples"][task], key=lambda s: s["doc_id"])
    return [s["filtered_resps"] for s in ordered]


def asked(kind: str, *arguments: tuple[Any, ...], doc: dict[str, Any] | None = None) -> list[Instance]:
    return [Instance(kind, doc or {}, a, i, task_name="t", doc_id=i, repeats=1) for i, a in enumerate(arguments)]


class TokenCount:
    """Counts the token columns, pads included, that a model's forward is given."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        self.handle = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = given[0] if given else named.get("input_ids")
        self.tokens += 0 if ids is None else ids.numel()

    def __enter__(self) -> TokenCount:
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_options_score_as_in_lm_eval_with_fewer_tokens(tasks: Any, chat: bool) -> None:
    with TokenCount(stock().model) as theirs:
        expected = evaluated(stock(), "options", tasks, apply_chat_template=chat)
    lm = ours()
    before = lm.work.counters.prompt_tokens
    with TokenCount(lm.channel.answers.model) as columns:
        found = evaluated(lm, "options", tasks, apply_chat_template=chat)
    counted = lm.work.counters.prompt_tokens - before
    print(f"\nforward tokens, chat {chat}: lm-eval {theirs.tokens}, ours {columns.tokens} ({counted} without pads)")
    for own, other in zip(responses(found, "options"), responses(expected, "options"), strict=True):
        assert [ll for ll, _ in own] == pytest.approx([ll for ll, _ in other], abs=1e-4)
        assert [greedy for _, greedy in own] == [greedy for _, greedy in other]
    assert found["results"]["options"]["acc,none"] == expected["results"]["options"]["acc,none"]
    assert counted <= columns.tokens < theirs.tokens


def test_a_greedy_continuation_is_called_greedy() -> None:
    model = PAIR_ARGUMENTS["receiver"]  # its words survive decoding and encoding, unlike a random model's bytes
    context = "<|user|> near Kivim which metal ? A silver B cobalt C iron D nickel <|end|> <|assistant|>"
    words = stock(model).generate_until(asked("generate_until", (context, {"until": [], "max_gen_toks": 2})))[0].split()
    right, wrong = " " + " ".join(words), " " + " ".join([*words[:-1], "tin"])
    requests = asked("loglikelihood", (context, right), (context, wrong))
    expected, found = stock(model).loglikelihood(requests), ours(model=model).loglikelihood(requests)
    assert words
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected] == [True, False]


@pytest.mark.parametrize(
    ("context", "continuation"),
    [("", "A story."), ("Answer:", " B"), ("Answer: ", "B"), ("Answer:   ", "four words of text"), ("Ends.\n", "New")],
    ids=["empty", "plain", "one-space", "spaces", "newline"],
)
def test_seams_are_tokenised_as_in_lm_eval(context: str, continuation: str) -> None:
    requests = asked("loglikelihood", (context, continuation))
    assert ours().loglikelihood(requests)[0][0] == pytest.approx(stock().loglikelihood(requests)[0][0], abs=1e-4)


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_written_answers_are_lm_evals(tasks: Any, chat: bool) -> None:
    expected = evaluated(stock(), "words", tasks, apply_chat_template=chat)
    found = evaluated(ours(), "words", tasks, apply_chat_template=chat)
    assert responses(found, "words") == responses(expected, "words")
    assert any(text for (text,) in responses(found, "words"))


@pytest.mark.parametrize("context", ["A trailing space ", "A line\n", "x"])
def test_plain_prompts_are_written_on_as_in_lm_eval(context: str) -> None:
    requests = asked("generate_until", (context, {"until": ["q"], "max_gen_toks": MAX_NEW_TOKENS}))
    assert ours().generate_until(requests) == stock().generate_until(requests)


def test_rolling_loglikelihoods_are_lm_evals() -> None:
    requests = asked("loglikelihood_rolling", ("The river bends north, then east.",), ("def add(a, b):",))
    assert ours().loglikelihood_rolling(requests) == pytest.approx(stock().loglikelihood_rolling(requests), abs=1e-4)


def test_rolling_loglikelihoods_of_a_pair_are_refused() -> None:
    with pytest.raises(UserError, match=r"single models, not for c2c"):
        pair().loglikelihood_rolling(asked("loglikelihood_rolling", ("text",)))


MUTUAL = """
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{key}}"
metric_list: [{metric: acc_mutual_info}]
"""


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
def test_unconditional_requests_are_lm_evals_for_one_model_and_refused_for_a_pair(tasks: Any, chat: bool) -> None:
    expected = evaluated(stock(), "mutual", tasks, apply_chat_template=chat)
    found = evaluated(ours(), "mutual", tasks, apply_chat_template=chat)
    for own, other in zip(responses(found, "mutual"), responses(expected, "mutual"), strict=True):
        assert len(own) == 8
        assert [ll for ll, _ in own[4:]] == pytest.approx([ll for ll, _ in other[4:]], abs=1e-4)
    for lm in (pair(), texts()):
        with pytest.raises(UserError, match="requests without a prompt"):
            evaluated(lm, "mutual", tasks, apply_chat_template=chat)


def test_batch_size_changes_nothing() -> None:
    requests = asked("loglikelihood", *[(question, " " + o) for question, options, _ in ROWS for o in options])
    one, many = ours("1").loglikelihood(requests), ours("7").loglikelihood(requests)
    assert [ll for ll, _ in one] == pytest.approx([ll for ll, _ in many], abs=1e-4)


@pytest.mark.parametrize(
    "settings", [{"do_sample": True}, {"temperature": 0.7}, {"max_gen_toks": 0}, {"min_p": 0.1}], ids=str
)
def test_sampling_and_unknown_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ours().generate_until(asked("generate_until", ("Hi", settings)))


def test_a_failed_request_is_an_error_and_no_score() -> None:
    with pytest.raises(RunError, match="1 of 2 requests failed"):
        ours().loglikelihood(asked("loglikelihood", ("Hi", " there"), ("Ho", "")))


@pytest.mark.parametrize("arguments", [{}, {"receiver": MODEL, "fusser": "x"}], ids=["no-receiver", "misspelt"])
def test_wrong_model_arguments_are_user_errors(arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        SingleLM(**arguments)


@pytest.mark.parametrize(("name", "kind"), [("single", SingleLM), ("t2t", TextLM), ("c2c", FusedLM)])
def test_registered_under_the_names_of_the_entry_points(name: str, kind: type[ChannelLM]) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = text.split('[project.entry-points."lm_eval.models"]')[1].split("[")[0]
    assert f'{name} = "{kind.__module__}:{kind.__name__}"' in group
    assert get_model(name) is kind
    assert get_model("hf") is HFLM


def test_a_pair_is_evaluated_above_its_receiver() -> None:
    from harness.benchmarks.registry import task_manager

    name = WORDS
    options = {"limit": 40, "apply_chat_template": True}
    alone = SingleLM(receiver=PAIR_ARGUMENTS["receiver"], device="cpu", batch_size=20)
    scores = [evaluated(lm, name, task_manager(), **options)["results"][name]["acc,paper"] for lm in (alone, pair())]
    assert scores[1] > scores[0] + 0.1


def test_a_text_sharer_gets_the_bare_question() -> None:
    lm = TextLM(receiver=PAIR_ARGUMENTS["receiver"], sharer=PAIR_ARGUMENTS["sharer"], device="cpu", max_new_tokens=8)
    settings = {"max_gen_toks": 4}
    with pytest.raises(UserError, match="bare question"):
        lm.generate_until(asked("generate_until", ("anything", settings)))
    document = {"question": "near Kivim which metal ?"}
    assert len(lm.generate_until(asked("generate_until", ("anything", settings), doc=document))) == 1


def test_a_text_sharer_is_shown_the_options_that_are_compared(tasks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.channels import t2t

    shown: list[str] = []
    asked_of = t2t.sharer_conversation

    def kept(*arguments: Any) -> Any:
        asked = asked_of(*arguments)
        shown.append(asked.turns[0].content)
        return asked

    monkeypatch.setattr(t2t, "sharer_conversation", kept)
    evaluated(texts(with_options=True), "options", tasks, limit=1)
    question, options, _ = ROWS[0]
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=True))
    assert shown
    assert all(f"{question}\n\nChoices:\n{listed}" in text for text in shown)


def test_what_a_task_says_of_its_sharer_costs_no_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.benchmarks import registry

    registry.task_metadata.cache_clear()
    monkeypatch.setattr(registry, "task_manager", None)
    assert "{question}" in registry.task_metadata("factworld_sharer_knows")["t2t_prompt"]
    assert registry.task_metadata("openbookqa")["version"]
    assert registry.task_metadata("hellaswag") == {}


def test_a_text_sharer_is_asked_in_the_tasks_words() -> None:
    from harness.benchmarks.registry import task_manager

    lm = TextLM(receiver=PAIR_ARGUMENTS["receiver"], sharer=PAIR_ARGUMENTS["sharer"], device="cpu", batch_size=20)
    name = WORDS
    found = evaluated(lm, name, task_manager(), limit=20, apply_chat_template=True)["results"][name]
    assert found["acc,paper"] == 1.0  # as through `run`; in the paper's words this sharer talks past the question


@pytest.mark.parametrize("name", ["max_new_tokens", "datasets_dir", "limit", "controls"])
def test_what_lm_eval_decides_is_refused_among_the_models_arguments(name: str) -> None:
    with pytest.raises(UserError, match=f"model_args has {name}"):
        SingleLM(receiver=PAIR_ARGUMENTS["receiver"], device="cpu", **{name: 1})


def test_the_answering_models_template_is_recorded() -> None:
    assert pair().chat_template() == (PAIR / "receiver" / "chat_template.jinja").read_text(encoding="utf-8")
    assert "receiver" in pair().tokenizer_name


def test_a_published_fusers_name_may_hold_a_plus(tmp_path: Path) -> None:
    fuser = tmp_path / "qwen3+qwen2.5_Fuser"
    shutil.copytree(PAIR_ARGUMENTS["fuser"], fuser)
    channel = FusedLM(**{**PAIR_ARGUMENTS, "fuser": str(fuser)}, device="cpu").channel
    assert [link.fuser.config for link in channel.links] == [link.fuser.config for link in pair().channel.links]
    both = {**PAIR_ARGUMENTS, "sharer": ";".join([PAIR_ARGUMENTS["sharer"]] * 2), "fuser": f"{fuser};{fuser}"}
    assert len(FusedLM(**both, device="cpu").channel.links) == 2


def ran(given: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What lm-eval's command line is handed."""
    from harness.lm_eval_bridge import __main__ as command

    seen: list[str] = []
    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", *given])
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: seen.extend(sys.argv[2:]))
    assert command.main() == 0
    return seen


@pytest.mark.parametrize("given", [["--include_path=mine"], ["--include_path", "mine"], []])
def test_the_users_folder_of_tasks_stays(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ran(given, monkeypatch) == given


@pytest.mark.parametrize("given", [["--include_path=tasks"], ["--include_path", "tasks"]])
def test_our_folder_is_found_from_everywhere(given: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "=".join(ran(given, monkeypatch)) == f"--include_path={ROOT / 'tasks'}"
    (tmp_path / "tasks").mkdir()
    assert ran(given, monkeypatch) == given


def manager_of(folder: Path) -> type[TaskManager]:
    """lm-eval's task manager as if its own tasks were those of a folder; all of them take ten seconds to read."""

    class Few(TaskManager):
        pass

    module = types.ModuleType("few_tasks")
    module.__file__ = str(folder / "__init__.py")
    Few.__module__ = module.__name__
    sys.modules[module.__name__] = module
    return Few


def test_lm_evals_tasks_go_before_ours_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from harness.benchmarks.registry import available_tasks
    from harness.lm_eval_bridge.__main__ import with_our_tasks

    stock = tmp_path / "stock"
    for name in ("openbookqa", "arc"):
        shutil.copytree(Path(sys.modules[TaskManager.__module__].__file__ or "").parent / name, stock / name)
    monkeypatch.setitem(sys.modules, "few_tasks", None)  # as it was, once the test is over
    index = with_our_tasks(manager_of(stock))().task_index
    assert "overrides existing task" not in caplog.text
    for name in ("openbookqa", "arc_challenge"):
        assert Path(index[name].yaml_path).is_relative_to(stock)
    assert Path(index["factworld_sharer_knows"].yaml_path).is_relative_to(ROOT)
    assert available_tasks().keys() <= index.keys()
    asked = with_our_tasks(TaskManager)(include_path=str(ROOT / "tasks"), include_defaults=False).task_index
    assert Path(asked["openbookqa"].yaml_path).is_relative_to(ROOT)


def test_help_begins_with_a_command_of_ours() -> None:
    words = [sys.executable, "-m", "harness.lm_eval_bridge", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    ours, _, theirs = done.stdout.partition("What follows is lm-eval's help.")
    assert "--model c2c" in ours
    assert "usage: lm-eval" in theirs


def as_lm_eval(arguments: list[str], stock: Path) -> int:
    """What `python -m harness.lm_eval_bridge` does, with an lm-eval whose own tasks are those of a folder."""
    from harness.lm_eval_bridge import __main__ as command

    stock.mkdir()
    sys.argv[1:] = arguments
    lm_eval.tasks.TaskManager = manager_of(stock)
    return command.main()


def test_lm_evals_command_line_knows_our_models_and_tasks(tmp_path: Path) -> None:
    arguments = ",".join(f"{name}={path}" for name, path in PAIR_ARGUMENTS.items())
    command = ["run", "--model", "c2c", "--model_args", arguments]
    command += ["--tasks", LETTERS_FILE, "--limit", "4", "--apply_chat_template"]
    command += ["--batch_size", "2", "--output_path", str(tmp_path), "--use_cache", str(tmp_path / "cache")]
    said = tmp_path / "said"
    assert ended(forked(as_lm_eval, command, tmp_path / "stock", said=said)) == 0, said.read_text()[-2000:]
    (path,) = tmp_path.rglob("results_*.json")
    assert path.parent.name.startswith("receiver+sharer+fuser-")
    results = json.loads(path.read_text(encoding="utf-8"))
    assert not math.isnan(results["results"][LETTERS]["acc,none"])
    assert results["config"]["model"] == "c2c"
    assert results["config"]["model_name"] == path.parent.name
