"""Invented rows in the schemas of public data sets: data set and configuration -> split -> rows."""

from __future__ import annotations

import functools
from typing import Any

Rows = list[dict[str, Any]]

_FACTS = [
    ("Which of these floats on water?", ["a cork", "an iron nail", "a wet stone", "sand"], 0),
    ("What does a naïve painter use?", ["rain", "a brush", "thunder and lightning", "tin"], 1),
    ("Where do rivers end?", ["in the hills", "on the roof", "in the sea", "in the sun"], 2),
    ("What is 北京?", ["a fruit", "a colour", "a sort of tea", "a city"], 3),
    ("Which one is a vegetable?", ["leek", "glass", "paper", "a shoe"], 0),
    ("What follows the night?", ["a wall", "the morning", "a bridge", "an oak"], 1),
]
_LETTERS = "ABCDE"


def _labelled(options: list[str]) -> dict[str, list[str]]:
    return {"text": options, "label": list(_LETTERS[: len(options)])}


def _arc(name: str) -> Rows:
    return [
        {"id": f"{name}_{n}", "question": question, "choices": _labelled(options), "answerKey": _LETTERS[key]}
        for n, (question, options, key) in enumerate(_FACTS)
    ]


def _hellaswag() -> Rows:
    starts = [("Roof repair", "A man is on a roof.", "he"), ("Cooking [title]", "A pot boils.", "the cook")]
    endings = ["starts to sing [step] loudly.", "takes off a tile.", "falls  asleep.", "paints the café."]
    rows = [(*start, endings[n:] + endings[:n], str((1 - n) % 4)) for n, start in enumerate(starts)]
    names = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
    return [{"ind": n, **dict(zip(names, row, strict=True))} for n, row in enumerate(rows)]


def _mmlu() -> Rows:
    return [{"question": f" {q}\n", "subject": "anatomy", "choices": o, "answer": k} for q, o, k in _FACTS]


def _mmlu_pro() -> Rows:
    rows = []
    for n, (question, options, key) in enumerate(_FACTS):
        thought = f"A: Let's think step by step. It is plain. The answer is ({_LETTERS[key]})."
        answer = {"options": [*options, "none of these"], "answer": _LETTERS[key], "answer_index": key}
        rows.append({"question_id": n, "question": question, "category": "biology", "cot_content": thought, **answer})
    return [*rows, {**rows[0], "category": "law"}]


def _drop() -> Rows:
    none = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}
    answers = [{**none, "number": "3"}, {**none, "spans": ["the red team", "the blue team"]}]
    answers.append({**none, "date": {"day": "2", "month": "May", "year": "1901"}})
    questions = ["How many goals were scored?", "Which teams played?", "When was it?"]
    passage = "On 2 May 1901 the red team played the blue team and scored 3 goals."
    return [
        {
            "section_id": "s",
            "query_id": f"q{n}",
            "passage": passage,
            "question": question,
            "answer": answer,
            "validated_answers": {name: [answer[name]] for name in none},
        }
        for n, (question, answer) in enumerate(zip(questions, answers, strict=True))
    ]


def _race() -> Rows:
    article = "Ann went to the market. She bought leeks, and then it rained."
    problems = [
        {"question": "Ann bought  _  .", "answer": "B", "options": ["tin", "leeks", "a roof", "glass"]},
        {"question": "Where did she go?", "answer": "A", "options": ["to the market", "home", "abroad", "to sea"]},
    ]
    return [{"article": article, "problems": str(part)} for part in (problems, problems[:1], problems[::-1])]


def _truthful() -> Rows:
    def target(options: list[str], right: int) -> dict[str, list[Any]]:
        return {"choices": options, "labels": [1] * right + [0] * (len(options) - right)}

    rows = []
    for question, options, key in _FACTS[:3]:
        ordered = [options[key], *(o for n, o in enumerate(options) if n != key)]
        both = target([*ordered[:1], f"{ordered[0]}, I think", *ordered[1:]], 2)
        rows.append({"question": question, "mc1_targets": target(ordered, 1), "mc2_targets": both})
    return rows


def _gpqa() -> Rows:
    rows = []
    for question, options, key in _FACTS[:3]:
        wrong = [option for n, option in enumerate(options) if n != key]
        wrongs = {f"Incorrect Answer {n + 1}": option for n, option in enumerate(wrong)}
        rows.append({"Question": question, "Correct Answer": f" {options[key]}", **wrongs})
    return rows


_PIQA = [
    {"goal": "To boil butter,", "sol1": "put it in a pot.", "sol2": "put it in a bag and wait.", "label": 0},
    {"goal": "How do I fold a shirt?", "sol1": "Burn it.", "sol2": "Lay it down; fold the sleeves.", "label": 1},
]
_BOOLQ = [
    {"passage": "Cork is light.", "question": "does cork float", "idx": 0, "label": 1},
    {"passage": "Iron is heavy, and sinks.", "question": "does an iron nail float", "idx": 1, "label": 0},
]
_COPA = [
    {"premise": "The man broke his toe.", "question": "cause", "choice1": "He got a hole in his sock.",
     "choice2": "He dropped a hammer on his foot.", "idx": 0, "label": 1},
    {"premise": "It rained all night.", "question": "effect", "choice1": "The street was wet.",
     "choice2": "The sun burned the grass.", "idx": 1, "label": 0},
]  # fmt: skip
_WINOGRANDE = [
    {"sentence": "The cup did not fit the box because _ was too large.", "option1": "the cup", "option2": "the box",
     "answer": "1"},
    {"sentence": "Ann thanked Eve, since _ had helped her.", "option1": "Ann", "option2": "Eve", "answer": "2"},
]  # fmt: skip
_GSM8K = [
    {"question": f"Ann has {n} leeks and buys {n + 2}. How many has she?",
     "answer": f"She has {n} + {n + 2} = {2 * n + 2}.\n#### {2 * n + 2}"}
    for n in range(1, 8)
]  # fmt: skip
_TRIVIA = [
    {"question": "Which city is 北京", "answer": {"value": "Beijing", "aliases": ["Beijing", "Peking"]}},
    {"question": "Which colour has a leek", "answer": {"value": "Green", "aliases": ["Green", "White and green"]}},
]
_SQUAD = [
    {"doc_id": "0", "text": "Rivers end in the sea. Where do rivers end? They end in ", "value": " the sea "},
    {"doc_id": "1", "text": " The leek is a vegetable. A vegetable is the", "value": "leek"},
]
_BLIMP = [
    {"sentence_good": "These boys hurt themselves.", "sentence_bad": "These boys hurt himself."},
    {"sentence_good": "Ann sees herself.", "sentence_bad": "Ann sees themselves, I think."},
]
_LAMBADA = [
    {"text": "The cork floated, the iron did not. So they made the boat of cork"},
    {"text": "She opened the door, and there, in the rain, stood her naïve brother"},
]
_WIKITEXT = [
    {"page": " = Leek = \n\n A leek is a vegetable , grown in winter @-@ cold fields . \n It floats . \n" * 3},
    {"page": " = Cork = \n\n Cork , cut from oaks , is light ; 1 @,@ 000 corks float . \n"},
]
_EVERY_SPLIT = ("train", "validation", "test")
_DATA: dict[tuple[str, str | None], dict[str, Rows]] = {
    ("allenai/ai2_arc", "ARC-Easy"): {"train": _arc("e"), "validation": _arc("v"), "test": _arc("t")[:3]},
    ("allenai/ai2_arc", "ARC-Challenge"): {"train": _arc("e"), "validation": _arc("v"), "test": _arc("t")[3:]},
    ("Rowan/hellaswag", None): {"train": _hellaswag(), "validation": _hellaswag()},
    ("baber/piqa", None): {"train": _PIQA, "validation": _PIQA},
    ("aps/super_glue", "boolq"): {"train": _BOOLQ, "validation": _BOOLQ},
    ("aps/super_glue", "copa"): {"train": _COPA, "validation": _COPA},
    ("allenai/winogrande", "winogrande_xl"): {"train": _WINOGRANDE, "validation": _WINOGRANDE},
    ("EleutherAI/lambada_openai", "default"): {"test": _LAMBADA},
    ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1"): dict.fromkeys(_EVERY_SPLIT, _WIKITEXT),
    ("openai/gsm8k", "main"): {"train": _GSM8K, "test": _GSM8K[:2]},
    ("mandarjoshi/trivia_qa", "rc.nocontext"): {"train": _TRIVIA, "validation": _TRIVIA},
    ("cais/mmlu", "anatomy"): {"test": _mmlu()[:3], "validation": _mmlu(), "dev": _mmlu()},
    ("TIGER-Lab/MMLU-Pro", None): {"test": _mmlu_pro()[:2], "validation": _mmlu_pro()},
    ("Idavidrein/gpqa", "gpqa_main"): {"train": _gpqa()},
    ("tau/commonsense_qa", None): {
        split: [
            {**row, "choices": _labelled([*row["choices"]["text"], "nothing at all"])} for row in _arc("c")[:3]
        ]
        for split in ("train", "validation")
    },
    ("truthfulqa/truthful_qa", "multiple_choice"): {"validation": _truthful()},
    ("EleutherAI/drop", None): {"train": _drop(), "validation": _drop()},
    ("hazyresearch/based-squad", "default"): {"validation": _SQUAD},
    ("EleutherAI/race", "high"): {"test": _race()},
    ("nyu-mll/blimp", "anaphor_number_agreement"): {"train": _BLIMP},
}  # fmt: skip


def load_dataset(path: str, name: str | None = None, **_: Any) -> Any:
    """Stands in for `datasets.load_dataset`."""
    return _loaded(path, name)


@functools.cache
def _loaded(path: str, name: str | None) -> Any:
    from datasets import Dataset, DatasetDict

    return DatasetDict({split: Dataset.from_list(rows) for split, rows in _DATA[path, name].items()})
