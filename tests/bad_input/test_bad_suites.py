from __future__ import annotations

from pathlib import Path

import pytest

from harness.config.loading import MAX_BYTES
from tests.support.refusals import refused

SUITES = {
    "list": (b"- limit: 2\n", "holds a list; give `name: value` lines"),
    "text": (b"just words\n", "holds a str"),
    "number": (b"5\n", "holds a int"),
    "unclosed list": (b"channels: [receiver\n", "not valid YAML"),
    "tab": (b"a:\n\t- b\n", "not valid YAML"),
    "unclosed quote": (b'receiver: "a\n', "not valid YAML"),
    "two documents": (b"limit: 1\n---\nlimit: 2\n", "not valid YAML"),
    "not UTF-8": (b"receiver: \xff\xfe\n", "not valid YAML"),
    "control character": (b"receiver: \x07\n", "not valid YAML"),
    "python tag": (b"receiver: !!python/object/apply:os.system ['true']\n", "tag or anchor"),
    "own tag": (b"receiver: !env HOME\n", "tag or anchor"),
    "anchor": (b"receiver: &a b\nsharers: [*a]\n", "tag or anchor"),
    "deep": (b"channels: " + b"[" * 40 + b"]" * 40, "nested too deeply"),
    "large": (b"#" * (MAX_BYTES + 1), "larger than"),
    "repeated key": (b"limit: 1\nlimit: 2\n", "twice"),
    "both spellings": (b"task: [a]\ntasks: [b]\n", "other spelling"),
    "unknown key": (b"limits: 3\n", "Did you mean 'limit'?"),
    "unknown key dtype": (b"dtypes: float32\n", "Did you mean 'dtype'?"),
    "key with dash": (b"batch-size: 3\n", "Did you mean 'batch_size'?"),
    "number as key": (b"5: 3\n", "unknown key '5'"),
    "list as key": (b"[1]: 3\n", "suite.yaml"),
    "empty key": (b"'': 3\n", "unknown key"),
    "text for number": (b"limit: ten\n", "whole number"),
    "quoted number": (b"limit: '10'\n", "whole number"),
    "fraction for number": (b"limit: 1.5\n", "whole number"),
    "switch for number": (b"limit: true\n", "whole number"),
    "zero": (b"limit: 0\n", "at least 1"),
    "nothing for number": (b"batch_size:\n", "whole number"),
    "number for text": (b"receiver: 5\ntasks: [factworld]\n", "text"),
    "list for text": (b"receiver: [a]\ntasks: [factworld]\n", "text"),
    "number for switch": (b"chat: 1\n", "true or false"),
    "text for switch": (b"chat: 'yes'\n", "true or false"),
    "not finite": (b"max_error_rate: .nan\n", "max_error_rate"),
    "infinite": (b"max_error_rate: .inf\n", "max_error_rate"),
    "number in list": (b"tasks: [1]\n", "text"),
    "blank in list": (b"tasks: ['']\n", "not empty"),
    "mapping for list": (b"tasks: {a: b}\n", "list of texts"),
    "unknown channel": (b"channels: [resever]\n", "Did you mean 'receiver'?"),
    "unknown control": (b"controls: [zero]\n", "Did you mean 'zeroed'?"),
    "unknown task": (b"tasks: [arc_chalenge]\n", "Did you mean 'arc_challenge'?"),
    "unknown dtype": (b"dtype: float8\n", "'float32'"),
    "list of generation settings": (b"gen_kwargs: [a]\n", "mapping"),
    "nested generation settings": (b"gen_kwargs: {a: {b: c}}\n", "gen_kwargs"),
    "samples not kept": (b"log_samples: false\n", "always kept"),
    "length set twice": (b"max_new_tokens: 3\ngen_kwargs: {max_gen_toks: 4}\n", "give one of them"),
    "date": (b"receiver: 2024-12-05\ntasks: [factworld]\n", "text"),
    "huge number": (b"limit: " + b"9" * 5000, "suite.yaml"),
    "number for channels": (b"channels: 5\n", "list of texts"),
    "nothing for channels": (b"channels:\n", "list of texts"),
    "number for controls": (b"controls: 5\n", "list of texts"),
    "number for tasks": (b"tasks: 5\n", "list of texts"),
    "text for datasets": (b"datasets_dir: 7\n", "text"),
}


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_refused_in_a_sentence(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = SUITES[name]
    (tmp_path / "suite.yaml").write_bytes(content)
    assert words in refused(capsys, ["run", "suite.yaml", "--no-progress"])
    assert [path.name for path in tmp_path.iterdir()] == ["suite.yaml"]


@pytest.mark.parametrize("where", ["missing.yaml", "."])
def test_a_suite_that_is_no_file_is_refused(where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Cannot read the configuration" in refused(capsys, ["run", where])
