import json
import platform
import re
from pathlib import Path

import torch

from wbcbench.records.environment import capture, source_revision


def test_capture_names_versions_but_no_place():
    said = capture("cpu")
    text = json.dumps(said, allow_nan=False)
    assert said["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert (said["device"], said["threads"]) == ("cpu", torch.get_num_threads())
    assert re.fullmatch("[0-9a-f]{12}", said["host"])
    assert said["host"] != platform.node()
    assert str(Path.home()) not in text
    assert str(Path(__file__).parents[2]) not in text


def test_revision_is_of_the_source_tree_not_of_the_current_folder(tmp_path, monkeypatch):
    here = source_revision()
    monkeypatch.chdir(tmp_path)
    assert source_revision() == here
    assert here is None or re.fullmatch("[0-9a-f]{40}", here["commit"])
