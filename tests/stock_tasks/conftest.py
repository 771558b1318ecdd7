"""lm-eval's stock tasks on invented rows, run once for each model and way of asking."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from harness.fusers.checkpoint import save
from harness.lm_eval_bridge.model import FusedLM, SingleLM, TextLM
from harness.models.loading import load
from tests.support.seams import SPACED, model_folder, words
from tests.support.stock_rows import load_dataset

FOLDERS = {
    **{"arc_easy": "arc", "arc_challenge": "arc", "hellaswag": "hellaswag", "piqa": "piqa"},
    **{"boolq": "super_glue/boolq", "copa": "super_glue/copa", "winogrande": "winogrande"},
    **{"lambada_openai": "lambada", "wikitext": "wikitext", "gsm8k": "gsm8k", "triviaqa": "triviaqa"},
    **{"mmlu_anatomy": "mmlu/default", "mmlu_pro_biology": "mmlu_pro", "gpqa_main_zeroshot": "gpqa/zeroshot"},
    **{"commonsense_qa": "commonsense_qa", "truthfulqa_mc1": "truthfulqa", "truthfulqa_mc2": "truthfulqa"},
    **{"drop": "drop", "squad_completion": "squad_completion", "race": "race"},
    "blimp_anaphor_number_agreement": "blimp",
}
MMLU_SHOTS = 5
NEW_TOKENS = 24
Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A receiver, a sharer and a fuser between them; and a model that opens each text, its chats ending in a blank."""
    from tests.support.tiny import random_fuser

    home = tmp_path_factory.mktemp("models")
    long = {"max_position_embeddings": 4096}
    made = {
        "receiver": model_folder(home / "receiver", words(), **long),
        "sharer": model_folder(home / "sharer", words(), hidden_size=48, **long),
        "opening": model_folder(home / "opening", words(SPACED, opens=True), **long),
    }
    receiver, sharer = (load(made[name], device="cpu", dtype="float32") for name in ("receiver", "sharer"))
    save(random_fuser(receiver, sharer), home / "fuser")
    return {**made, "fuser": str(home / "fuser")}


@pytest.fixture(scope="session")
def model(folders: dict[str, str]) -> Callable[..., Any]:
    """Models by name and batch size, each loaded once."""
    arguments: dict[str, Any] = {"device": "cpu", "dtype": "float32"}
    pair = {name: folders[name] for name in ("receiver", "sharer")}

    @functools.cache
    def made(name: str, batch_size: int, alone: str = "receiver") -> Any:
        if name == "hf":
            return HFLM(pretrained=folders[alone], batch_size=batch_size, **arguments)
        if name == "single":
            return SingleLM(receiver=folders[alone], batch_size=batch_size, **arguments)
        if name == "t2t":
            return TextLM(**pair, max_new_tokens=6, batch_size=batch_size, **arguments)
        return FusedLM(**pair, fuser=folders["fuser"], batch_size=batch_size, **arguments)

    return made


@pytest.fixture(scope="session")
def manager(tmp_path_factory: pytest.TempPathFactory) -> TaskManager:
    """Knows the stock tasks that are tried, MMLU's with its usual five examples."""
    stock = Path(lm_eval.tasks.__file__).parent
    own = tmp_path_factory.mktemp("tasks")
    included = stock / FOLDERS["mmlu_anatomy"] / "mmlu_anatomy.yaml"
    (own / "mmlu.yaml").write_text(f"include: {included}\ntask: mmlu_anatomy\nnum_fewshot: {MMLU_SHOTS}\n")
    places = [str(stock / folder) for folder in dict.fromkeys(FOLDERS.values())]
    return TaskManager(include_path=[*places, str(own)], include_defaults=False)


@pytest.fixture(scope="module")
def invented() -> Iterator[None]:
    """Lets every task read the invented rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.load_dataset", load_dataset)
        patch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)  # asks pip, for a second
        yield


@pytest.fixture(scope="module")
def evaluate(model: Callable[..., Any], manager: TaskManager, invented: None) -> Evaluate:
    """Evaluates tasks; what was asked before is not run again."""

    @functools.cache
    def run(name: str, batch_size: int, tasks: Sequence[str], chat: bool, *alone: str) -> dict[str, Any]:
        found = simple_evaluate(
            model=model(name, batch_size, *alone),
            tasks=list(tasks),
            task_manager=manager,
            apply_chat_template=chat,
            gen_kwargs={"max_gen_toks": NEW_TOKENS},
            bootstrap_iters=0,
            log_samples=True,
            verbosity="ERROR",
        )
        return dict(found)

    return run
