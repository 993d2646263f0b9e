"""/metrics: what was predicted stands beside what came, in Prometheus' own text format."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from cast_server.engine.meter import Meter, StepRecord


def record(**changes) -> StepRecord:
    values = dict.fromkeys(StepRecord.__slots__, 0) | {"sequences": 3, "seconds": 0.5}
    return StepRecord(**(values | changes))


def test_predicted_beside_actual(http, engine, monkeypatch) -> None:
    meter = Meter()
    meter.add(record(drafted=2, predicted=0.25, expected=1.75, accepted=2, nodes=5, tokens=5))
    meter.add(record(drafted=0, predicted=0.5, tokens=3))
    report = meter.report(calibration_error=0.125, drift=1.5)
    monkeypatch.setattr(engine, "report", lambda: report)
    answer = http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    samples = {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(answer.text)
        for one in family.samples
    }
    expected = {
        ("castserve_decode_steps_total",): 2,
        ("castserve_decode_step_seconds_total",): 1.0,
        ("castserve_decode_step_predicted_seconds_total",): 0.75,
        ("castserve_decoded_tokens_total",): 8,
        ("castserve_draft_tokens_total",): 5,
        ("castserve_accepted_draft_tokens_total",): 2,
        ("castserve_expected_accepted_draft_tokens_total",): 1.75,
        ("castserve_policy_choices_total", "drafted"): 2,
        ("castserve_policy_choices_total", "plain"): 4,
        ("castserve_step_prediction_error", "0.5"): 0.25,
        ("castserve_step_prediction_error", "0.9"): 0.45,
        ("castserve_acceptance_calibration_error",): 0.125,
        ("castserve_cost_drift",): 1.5,
    }
    names = {name for name, *_ in expected}
    assert {key: value for key, value in samples.items() if key[0] in names} == expected


def test_before_the_first_step(http) -> None:
    answer = http.get("/metrics")
    assert answer.status_code == 200
    assert "castserve_decode_steps_total 0.0" in answer.text
