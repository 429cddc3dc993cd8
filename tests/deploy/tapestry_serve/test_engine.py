"""The seam of the engines: what the exact one promises, by its types."""

import inspect

from tapestry_serve.engine import AnswerEngine, BusyError, Job
from tapestry_serve.torch_engine import TorchEngine


def test_the_exact_engine_has_all_that_the_server_asks_for() -> None:
    for name, value in vars(AnswerEngine).items():
        if name.startswith("_") or not callable(value):
            continue
        want = list(inspect.signature(value).parameters)
        assert list(inspect.signature(getattr(TorchEngine, name)).parameters) == want
    assert TorchEngine.kind == "torch"


def test_a_job_takes_the_likeliest_token_unless_it_is_told_otherwise() -> None:
    job = Job(model="base", prompt=(1,), max_tokens=1, ends=frozenset())
    assert (job.temperature, job.top_p, job.alternatives) == (0.0, 1.0, 0)
    assert BusyError("x", code="queue-full").code == "queue-full"
