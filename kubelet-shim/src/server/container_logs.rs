//! `GET /containerLogs/{namespace}/{pod}/{container}` (contract E.3).

use std::time::Duration;

use futures::{StreamExt, stream};
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use jiff::Timestamp;

use super::{KubeletBody, Refusal, Shared};
use crate::logs::{LogQuery, LogReader, Look, Missing};
use crate::worker::log_path;

/// What a log is asked for with.
#[derive(Debug, Default, PartialEq, Eq)]
struct LogOptions {
    previous: bool,
    query: LogQuery,
}

impl Shared {
    pub(super) async fn container_logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &str,
    ) -> Result<Response<KubeletBody>, Refusal> {
        let options = LogOptions::parse(query, self.clock.now().wall())?;
        let look = match options.previous {
            true => Look::Previous,
            false => Look::Present,
        };
        let log = self.book.find(namespace, pod, container, look);
        let log = log.map_err(|missing| {
            let code = match missing {
                Missing::Pod | Missing::Container => StatusCode::NOT_FOUND,
                Missing::Status | Missing::Waiting(_) | Missing::Ended | Missing::Previous => {
                    StatusCode::BAD_REQUEST
                }
            };
            Refusal::new(code, missing.message(pod, container))
        })?;
        let permit = self.log_readers.clone().try_acquire_owned();
        let permit = permit.map_err(|_| {
            let text = "too many logs are read at once";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })?;
        let path = log_path(&self.data_dir, &log.pod, container, log.attempt);
        let reader = LogReader::open(path, log.feed, options.query).await;
        let reader = reader.map_err(|error| {
            tracing::warn!(pod, container, %error, "failed to read a container log");
            let code = StatusCode::INTERNAL_SERVER_ERROR;
            Refusal::new(code, format!("failed to read the log: {error}"))
        })?;
        let pieces = stream::unfold((Some(reader), permit), |(reader, permit)| async {
            let (bytes, reader) = reader?.next().await?;
            Some((bytes.map(Frame::data), (reader, permit)))
        });
        let mut response = Response::new(StreamBody::new(pieces.boxed()).boxed_unsync());
        let plain = header::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        Ok(response)
    }
}

impl LogOptions {
    /// Reads the query; unknown parameters are skipped, as by every kubelet.
    fn parse(query: &str, now: Timestamp) -> Result<LogOptions, Refusal> {
        let mut options = LogOptions::default();
        let (mut seconds, mut time) = (None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "follow" => options.query.follow = flag(&value),
                "previous" => options.previous = flag(&value),
                "timestamps" => options.query.timestamps = flag(&value),
                "tail" if value == "all" => options.query.tail = None,
                "tailLines" | "tail" => options.query.tail = Some(number(&value, 0)?),
                "limitBytes" => options.query.bytes = Some(number(&value, 1)?),
                "sinceSeconds" => seconds = Some(number(&value, 1)?),
                "sinceTime" => time = Some(value.parse().map_err(|_| unreadable())?),
                "stream" if value.is_empty() || value == "All" => (),
                "stream" => {
                    let text = format!(
                        "unable to return the given log stream: \"{value}\". Please enable \
                         PodLogsQuerySplitStreams feature gate in kubelet"
                    );
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
                }
                _ => (),
            }
        }
        options.query.since = match (seconds, time) {
            (Some(_), Some(_)) => return Err(invalid()),
            (Some(seconds), None) => {
                // Longer ago than time goes back is from the beginning.
                let since = now.checked_sub(Duration::from_secs(seconds));
                since.ok()
            }
            (None, time) => time,
        };
        Ok(options)
    }
}

/// Only these two words mean no, as for every query that Kubernetes reads.
fn flag(value: &str) -> bool {
    !(value == "0" || value.eq_ignore_ascii_case("false"))
}

fn number(value: &str, least: i64) -> Result<u64, Refusal> {
    let number: i64 = value.parse().map_err(|_| unreadable())?;
    match u64::try_from(number) {
        Ok(found) if number >= least => Ok(found),
        Ok(_) | Err(_) => Err(invalid()),
    }
}

fn unreadable() -> Refusal {
    let text = r#"{"message": "Unable to decode query."}"#;
    Refusal::new(StatusCode::BAD_REQUEST, text)
}

fn invalid() -> Refusal {
    let text = r#"{"message": "Invalid request."}"#;
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Result<LogOptions, u16>) {
        let now = "2026-01-02T00:01:00Z".parse().expect("a time");
        let found = LogOptions::parse(query, now).map_err(|refusal| refusal.code.as_u16());
        assert_eq!(found, expected, "{query}");
    }

    #[test]
    fn queries_are_read_as_a_kubelet_reads_them() {
        let base = LogOptions::default;
        let with = |change: fn(&mut LogOptions)| {
            let mut options = base();
            change(&mut options);
            Ok(options)
        };
        check("", Ok(base()));
        check(
            "container=c&insecureSkipTLSVerifyBackend=true&stream=All",
            Ok(base()),
        );
        check(
            "follow=true&previous=1",
            with(|options| {
                (options.query.follow, options.previous) = (true, true);
            }),
        );
        check(
            "follow=false&timestamps",
            with(|options| options.query.timestamps = true),
        );
        check("tailLines=0", with(|options| options.query.tail = Some(0)));
        check("tail=5", with(|options| options.query.tail = Some(5)));
        check("tail=all", Ok(base()));
        check(
            "limitBytes=1",
            with(|options| options.query.bytes = Some(1)),
        );
        let noon = |options: &mut LogOptions| {
            options.query.since = "2026-01-02T00:00:00Z".parse().ok();
        };
        check("sinceSeconds=60", with(noon));
        check("sinceTime=2026-01-02T01:00:00%2B01:00", with(noon));
        check("sinceSeconds=9223372036854775807", Ok(base()));
        for (query, code) in [
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=1&sinceTime=2026-01-02T01:00:00Z", 422),
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
            ("stream=Stdout", 400),
        ] {
            check(query, Err(code));
        }
    }
}
