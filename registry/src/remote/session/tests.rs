use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;

/// The first byte of a connection on which TLS is spoken.
const TLS_HANDSHAKE: u8 = 0x16;
/// What Go's server says to who does not speak TLS.
const GO_SAYS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// What a server makes of a client that does not speak what it speaks.
#[derive(Clone, Copy)]
enum Manner {
    AnswersLikeGo,
    HangsUp,
}

/// A registry on loopback that answers every request with `{}`.
struct Server {
    address: String,
    certificate: Vec<u8>,
}

impl Server {
    fn start(speaks: Scheme, manner: Manner) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]);
        let made = made.expect("a certificate");
        let certificate = made.cert.der().to_vec();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate and its key");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        // Ends with the process of the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = config.clone();
                std::thread::spawn(move || serve(stream, speaks, manner, config));
            }
        });
        Self {
            address,
            certificate,
        }
    }

    /// Begins a conversation by a client that trusts the given certificates alone.
    fn session(&self, store: &ImageStore, trusted: &[&[u8]]) -> Session {
        let trusted = trusted
            .iter()
            .map(|der| reqwest::Certificate::from_der(der));
        let trusted: Vec<_> = trusted.collect::<Result<_, _>>().expect("certificates");
        let client = HttpClient::builder().tls_certs_only(trusted).build();
        let client = client.expect("a client");
        store.inner.http.set(client).expect("it is the first");
        self.session_of(store)
    }

    /// Begins a conversation by the store's own client.
    fn session_of(&self, store: &ImageStore) -> Session {
        let reference = format!("{}/app:v1", self.address).parse().expect("a name");
        let credentials = Credentials::parse("user:secret").expect("credentials");
        let session = Session::new(store, &reference, Some(credentials), Access::Pull);
        session.expect("a session")
    }
}

fn serve(stream: TcpStream, speaks: Scheme, manner: Manner, config: Arc<ServerConfig>) {
    let mut first = [0];
    let peeked = stream.peek(&mut first);
    let spoken = match peeked {
        Ok(1) if first == [TLS_HANDSHAKE] => Scheme::Tls,
        Ok(_) => Scheme::Plain,
        Err(_) => return,
    };
    let mut stream = stream;
    match (spoken == speaks, spoken, manner) {
        (true, Scheme::Plain, _) => answer(&mut stream, b"{}"),
        (true, Scheme::Tls, _) => {
            let connection = ServerConnection::new(config).expect("a connection");
            answer(&mut StreamOwned::new(connection, stream), b"{}");
        }
        (false, _, Manner::AnswersLikeGo) => {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(GO_SAYS);
        }
        (false, _, Manner::HangsUp) => {}
    }
}

fn answer(stream: &mut (impl Read + Write), body: &[u8]) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&buffer[..count]),
        }
    }
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body);
    let _ = stream.flush();
}

fn store() -> (tempfile::TempDir, ImageStore) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ImageStore::open(folder.path()).expect("a store");
    (folder, store)
}

#[tokio::test]
async fn a_registry_on_this_machine_is_spoken_to_as_it_speaks() {
    for (speaks, manner) in [
        (Scheme::Tls, Manner::AnswersLikeGo),
        (Scheme::Tls, Manner::HangsUp),
        (Scheme::Plain, Manner::HangsUp),
    ] {
        let (_folder, store) = store();
        let server = Server::start(speaks, manner);
        let session = server.session(&store, &[&server.certificate]);
        // `HEAD` shows no text, and what was found out once is known.
        session.resolve("v1").await.expect("an answer");
        assert_eq!(session.scheme.get(), Some(&speaks));
        let fetched = session.manifest("v1").await.expect("an answer");
        assert_eq!(&fetched.bytes[..], b"{}");
    }
}

/// Whoever listens on the port of a registry that is not up must not get what is meant for it.
#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_no_reason_to_go_without() {
    for manner in [Manner::AnswersLikeGo, Manner::HangsUp] {
        let (_folder, store) = store();
        let server = Server::start(Scheme::Tls, manner);
        let other = Server::start(Scheme::Tls, manner);
        let session = server.session(&store, &[&other.certificate]);
        let error = session.renew().await.expect_err("not trusted");
        let source = std::error::Error::source(&error).expect("a cause");
        assert!(chain_contains(source, "certificate"), "{error}: {source:?}");
        assert_eq!(session.scheme.get(), None);
    }
}

/// Reading the system's certificates takes longer than a registry on this machine to answer.
#[tokio::test]
async fn the_systems_certificates_are_read_when_one_is_shown() {
    for (speaks, are_read) in [(Scheme::Plain, false), (Scheme::Tls, true)] {
        let (_folder, store) = store();
        let server = Server::start(speaks, Manner::HangsUp);
        let asked = server.session_of(&store).resolve("v1").await;
        assert_eq!(asked.is_err(), are_read, "no system trusts the server");
        assert_eq!(store.inner.trust.is_loaded(), are_read);
        if let Err(error) = asked {
            assert!(chain_contains(&error, "certificate"), "{error:?}");
        }
    }
}

fn chain_contains(error: &dyn std::error::Error, text: &str) -> bool {
    error.to_string().contains(text)
        || error
            .source()
            .is_some_and(|source| chain_contains(source, text))
}

#[tokio::test]
async fn a_plain_registry_that_answers_400_is_told_of_by_that() {
    let (_folder, store) = store();
    let server = Server::start(Scheme::Tls, Manner::AnswersLikeGo);
    // Answers 400 to everyone: it takes whatever is spoken for what it does not speak.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(GO_SAYS);
        }
    });
    let deaf = Server { address, ..server };
    let session = deaf.session(&store, &[&deaf.certificate]);
    let error = session.manifest("v1").await.err().expect("an error");
    assert!(error.to_string().contains("answers 400"), "{error}");
}
