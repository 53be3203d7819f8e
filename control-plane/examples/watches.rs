//! Prints what ten thousand idle watches cost in memory, and how fast all of them hear of a change.

use std::{fs, time::Instant};

use bytes::Bytes;
use coracle_control_plane::{ApiBody, ControlPlane, ControlPlaneConfig};
use futures::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

const WATCHES: usize = 10_000;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Returns how much memory of this process is resident, in bytes.
fn resident() -> usize {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
    let before = resident();
    let path = format!("{MAPS}?watch=true&allowWatchBookmarks=true");
    let mut watches: Vec<ApiBody> = Vec::with_capacity(WATCHES);
    for _ in 0..WATCHES {
        let request = Request::get(&path).body(Full::new(Bytes::new()))?;
        let mut body = plane.service().oneshot(request).await?.into_body();
        // Nothing has happened yet; the first poll registers the watch.
        assert!(futures::poll!(body.frame()).is_pending());
        watches.push(body);
    }
    let each = resident().saturating_sub(before) / WATCHES;
    println!("{each} bytes for each of {WATCHES} idle watches");

    let begun = Instant::now();
    let object = Bytes::from_static(br#"{"metadata": {"name": "a"}, "data": {"k": "v"}}"#);
    let request = Request::post(MAPS).body(Full::new(object))?;
    assert_eq!(plane.service().oneshot(request).await?.status(), 201);
    let heard = join_all(watches.iter_mut().map(BodyExt::frame)).await;
    assert!(heard.iter().all(Option::is_some));
    println!(
        "{:?} until all of them have heard of a change",
        begun.elapsed()
    );
    drop(watches);
    plane.stop().await;
    Ok(())
}
