//! Serves the embedded API over plain HTTP on a free loopback port, for a look with `kubectl -s`.
//!
//! Everyone who reaches the port may do everything: this is for trying things out, by hand.

use coracle_control_plane::{ControlPlane, ControlPlaneConfig};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let plane = ControlPlane::start(ControlPlaneConfig::default()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(plane.service());
        tokio::spawn(async move {
            let served = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}
