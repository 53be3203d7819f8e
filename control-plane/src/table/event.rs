//! The row of an event.

use serde_json::{Value, json};

use super::{Shown, UNKNOWN, or};

pub(super) fn event(event: Shown<'_>) -> Value {
    // Events of the newer API have only `eventTime`, and no count unless they are a series.
    let first = or_else(event.since("/firstTimestamp"), || event.since("/eventTime"));
    let (last, count) = match event.object.pointer("/series") {
        Some(Value::Object(_)) => (
            event.since("/series/lastObservedTime"),
            event.number("/series/count"),
        ),
        _ => (
            or_else(event.since("/lastTimestamp"), || first.clone()),
            event.number("/count").max(1),
        ),
    };
    let kind = event.text("/involvedObject/kind").to_lowercase();
    let object = match event.text("/involvedObject/name") {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    json!([
        last,
        event.text("/type"),
        event.text("/reason"),
        object,
        event.text("/involvedObject/fieldPath"),
        source(event),
        event.text("/message").trim(),
        first,
        count,
        event.name(),
    ])
}

fn or_else(span: String, otherwise: impl FnOnce() -> String) -> String {
    if span == UNKNOWN { otherwise() } else { span }
}

fn source(event: Shown<'_>) -> String {
    let component = or(
        event.text("/source/component"),
        event.text("/reportingComponent"),
    );
    match or(event.text("/source/host"), event.text("/reportingInstance")) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::check;

    #[test]
    fn events_of_both_kinds_are_shown() {
        let event = json!({
            "type": "Warning", "reason": "BackOff", "message": "Back-off restarting\n", "count": 4,
            "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{app}"},
            "firstTimestamp": "2026-01-10T11:00:00Z", "lastTimestamp": "2026-01-10T11:59:50Z",
            "source": {"component": "kubelet", "host": "n"},
        });
        let expected = "10s|Warning|BackOff|pod/web|spec.containers{app}|kubelet, n|\
                        Back-off restarting|60m|4|x";
        check("v1", "Event", event, expected);
        let event = json!({
            "type": "Normal", "reason": "Scheduled", "involvedObject": {"kind": "Pod"},
            "eventTime": "2026-01-10T11:59:00.123456Z", "reportingComponent": "scheduler",
        });
        let expected = "59s|Normal|Scheduled|pod||scheduler||59s|1|x";
        check("v1", "Event", event.clone(), expected);
        let mut series = event;
        series["series"] = json!({"count": 3, "lastObservedTime": "2026-01-10T11:59:57.5Z"});
        check(
            "v1",
            "Event",
            series,
            "2s|Normal|Scheduled|pod||scheduler||59s|3|x",
        );
    }
}
