//! A client's connection joined with one to a kubelet: bytes in both directions, nothing in between.

use std::{io::Cursor, time::Duration};

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::stall::WriteDeadline;

/// How long a client may go on sending when its node has said everything. What it sends is thrown
/// away, so that its system does not discard what it has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// What a connection to the server is made of.
type Served = TokioIo<WriteDeadline<TlsStream<TcpStream>>>;

/// Joins the two connections until both have said everything, or the client is gone.
pub(super) async fn relay(client: OnUpgrade, kubelet: Upgraded) {
    let client = match client.await {
        Ok(client) => client,
        Err(error) => return tracing::debug!(%error, "a connection was not upgraded"),
    };
    let kubelet = TokioIo::new(kubelet);
    match client.downcast::<Served>() {
        // Whoever reads on a terminal may stop for as long as they like.
        Ok(parts) => {
            let (reader, writer) = tokio::io::split(parts.io.into_inner().into_inner());
            let reader = Cursor::new(parts.read_buf).chain(reader);
            join(reader, writer, kubelet).await;
        }
        Err(client) => {
            let (reader, writer) = tokio::io::split(TokioIo::new(client));
            join(reader, writer, kubelet).await;
        }
    }
}

async fn join<R, W, K>(mut client_reader: R, mut client_writer: W, kubelet: K)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
    K: AsyncRead + AsyncWrite,
{
    let (mut kubelet_reader, mut kubelet_writer) = tokio::io::split(kubelet);
    let inwards = async {
        match tokio::io::copy(&mut client_reader, &mut kubelet_writer).await {
            Ok(_) => drop(kubelet_writer.shutdown().await),
            // A node that takes nothing more may still have something to say.
            Err(_) => {
                let mut nowhere = tokio::io::sink();
                let _ = tokio::io::copy(&mut client_reader, &mut nowhere).await;
            }
        }
    };
    let outwards = async {
        let copied = tokio::io::copy(&mut kubelet_reader, &mut client_writer).await;
        let _ = client_writer.shutdown().await;
        copied.is_ok()
    };
    let (mut inwards, outwards) = (std::pin::pin!(inwards), std::pin::pin!(outwards));
    let mut outwards = outwards;
    let has_client = tokio::select! {
        copied = &mut outwards => copied,
        () = &mut inwards => {
            // The node notices the end and ends too.
            outwards.await;
            return;
        }
    };
    if has_client {
        let _ = tokio::time::timeout(LINGER, inwards).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `talk` with both ends of a relay.
    async fn check<F>(talk: impl FnOnce(tokio::io::DuplexStream, tokio::io::DuplexStream) -> F)
    where
        F: Future<Output = ()>,
    {
        let (client, near) = tokio::io::duplex(16);
        let (far, kubelet) = tokio::io::duplex(16);
        let (reader, writer) = tokio::io::split(near);
        tokio::join!(join(reader, writer, far), talk(client, kubelet));
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_until_the_client_leaves() {
        check(async |mut client, mut kubelet| {
            let mut read = [0; 5];
            client.write_all(b"hello").await.unwrap();
            kubelet.read_exact(&mut read).await.unwrap();
            kubelet.write_all(b"there").await.unwrap();
            client.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"there");
            drop(client);
            assert_eq!(kubelet.read(&mut read).await.unwrap(), 0);
        })
        .await;
    }

    #[tokio::test]
    async fn what_a_node_said_last_reaches_a_client_that_still_sends() {
        check(async |client, mut kubelet| {
            let (mut reader, mut writer) = tokio::io::split(client);
            kubelet.write_all(b"the end").await.unwrap();
            drop(kubelet);
            // More than all buffers hold: the node takes none of it.
            let sending = async {
                writer.write_all(&[0; 1000]).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let mut said = String::new();
            let (read, ()) = tokio::join!(reader.read_to_string(&mut said), sending);
            assert_eq!((read.unwrap(), said.as_str()), (7, "the end"));
        })
        .await;
    }
}
