"""A server of a tiny base and two adapters, over a real socket, for tests."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import uvicorn

from tapestry.artifacts import manifest, model_folder
from tapestry.workloads.adapter_format import BaseName
from tapestry.workloads.language.base_models import build_tiny
from tapestry.workloads.language.peft_folder import write_peft
from tapestry_serve import served_models
from tapestry_serve.assistant import Access, Assistant
from tapestry_serve.served_models import ServedModels
from tapestry_serve.torch_engine import EngineLimits, TorchEngine
from tests.support import plans

ENGINE = {"kind": "torch", "device": "cpu", "quantised": False}


def write_folders(root: Path, names: tuple[str, ...] = ("de", "it")) -> Path:
    """Lay out a base and adapters that change what it says."""
    model = build_tiny()
    model.save(root / "base-1")
    digest = model_folder.read(root / "base-1").digest
    plan = plans.training_plan(
        parameterization="low_rank", rank=4, targets=("q_proj", "down_proj")
    )
    generator = np.random.default_rng(5)
    for name in names:
        update = generator.normal(size=model.layout(plan).length).astype(np.float32)
        base = BaseName(name="base-1", digest=digest)
        write_peft(root / name, update, model=model, plan=plan, base=base)
        (root / name / "README.md").write_text(f"# {name}\n")
        manifest.write(root / name)
    return root


def load(root: Path, names: tuple[str, ...] = ("de", "it")) -> ServedModels:
    """Load what ``write_folders`` wrote, without a log."""
    adapters = [(None, root / name) for name in names]
    found = served_models.load(str(root / "base-1"), adapters)
    return served_models.with_lineage(found, name="base-1", log=None, engine=ENGINE)


@contextmanager
def running(
    models: ServedModels,
    *,
    tokens: tuple[bytes, ...] = (),
    limits: EngineLimits | None = None,
) -> Iterator[str]:
    """Serve models on a free port; yields the address."""
    folders = {name: each.held for name, each in models.adapters.items()}
    engine = TorchEngine(models.model, folders, limits=limits)
    access = Access(hosts=frozenset({"127.0.0.1", "localhost"}), tokens=tokens)
    app = Assistant(engine, models, access).app()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, ws="none", lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        engine.close()
