"""An id that programs exchange becomes the name that a reader knows."""

from tapestry_demo.report import names
from tapestry_demo.report.data import read


def test_ids_become_names() -> None:
    run = read(
        {
            "title": "t",
            "countries": [{"name": "czech-republic", "language_name": "Czech"}],
            "releases": [{"name": "base-1", "round": 2}],
        }
    )
    assert names.country(run, "czech-republic") == "Czech Republic (Czech)"
    assert names.country(run, "node-7") == "node-7"
    assert names.country(run, "netherlands") == "The Netherlands"
    assert names.adapter("netherlands") == "the Netherlands\u2019 adapter"
    assert names.signer("italy/witness") == "Italy"
    shown = {
        "given": "the model as it was given",
        "base-1": "the shared model after round\u00a02",
        "base-3": "the shared model after round\u00a03",
        "central": "trained in one place, without noise",
        "central-dp": "trained in one place, with noise",
        "adapter-italy": "Italy\u2019s adapter",
        "base-" + "9" * 5000: "base-" + "9" * 5000,
        "other": "other",
    }
    assert {model: names.model(run, model) for model in shown} == shown
