import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

_USUAL = torch.get_num_threads()


def _load() -> ModuleType:
    spec = spec_from_file_location("small_pretraining", Path(__file__).with_name("small.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def small() -> ModuleType:
    """``small.py``: a training of seconds."""
    return _load()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(_USUAL)  # tests of other folders compare with processes of their own, which have all cores
