//! The API behind its socket: who gets in, and how connections end.

use std::{sync::Arc, time::Duration};

use coracle_control_plane::{ApiServer, Credentials, Identity, Purpose, ServerConfig, Subject};
use futures::TryStreamExt;
use jiff::{Timestamp, ToSpan};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api,
    api::{PostParams, WatchParams},
    config::{AuthInfo, Config},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::Harness;

/// A control plane behind a socket.
pub(crate) struct Served {
    pub(crate) api: Harness,
    pub(crate) server: ApiServer,
    pub(crate) authority: String,
    pub(crate) admin: Credentials,
}

fn admin() -> Subject {
    Subject {
        name: "kubernetes-admin".to_owned(),
        group: Some("system:masters".to_owned()),
        purpose: Purpose::Client,
    }
}

impl Served {
    pub(crate) async fn start() -> Served {
        let identity = Arc::new(Identity::in_memory(Timestamp::now()).unwrap());
        let api = Harness::with_identity(Arc::clone(&identity)).await;
        let config = ServerConfig {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            names: vec!["box.example.dev".to_owned()],
        };
        let server = ApiServer::bind(config, api.plane.service()).await.unwrap();
        Served {
            api,
            server,
            authority: identity.authority_pem().to_owned(),
            admin: identity.issue(&admin(), Timestamp::now()).unwrap(),
        }
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.server.address().unwrap()
    }

    /// Connects with what a kubeconfig would hold.
    fn client(&self, auth: AuthInfo) -> kube::Client {
        let address = self.address();
        let mut config = Config::new(format!("https://{address}").parse().unwrap());
        let pem = self.authority.as_bytes();
        let der = rustls::pki_types::pem::PemObject::from_pem_slice(pem);
        let der: rustls::pki_types::CertificateDer<'_> = der.unwrap();
        config.root_cert = Some(vec![der.to_vec()]);
        config.auth_info = auth;
        kube::Client::try_from(config).unwrap()
    }

    pub(crate) fn with_certificate(&self, credentials: &Credentials) -> kube::Client {
        let encode = |text: &str| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        self.client(AuthInfo {
            client_certificate_data: Some(encode(&credentials.certificate)),
            client_key_data: Some(encode(&credentials.key).into()),
            ..AuthInfo::default()
        })
    }

    fn with_token(&self, token: &str) -> kube::Client {
        self.client(AuthInfo {
            token: Some(token.to_owned().into()),
            ..AuthInfo::default()
        })
    }

    pub(crate) async fn stop(self) {
        self.server.stop(Duration::from_secs(5)).await;
        self.api.plane.stop().await;
    }
}

/// Gets a path and returns the code and the answer.
async fn get(client: &kube::Client, path: &str) -> (u16, Value) {
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    match client.request_text(request).await {
        Ok(text) => (200, serde_json::from_str(&text).unwrap_or_default()),
        Err(kube::Error::Api(status)) => (status.code, serde_json::to_value(&*status).unwrap()),
        Err(error) => panic!("{path}: {error}"),
    }
}

#[tokio::test]
async fn whoever_has_a_certificate_of_ours_gets_in() {
    let served = Served::start().await;
    let client = served.with_certificate(&served.admin);
    let (code, answer) = get(&client, "/api/v1/namespaces").await;
    assert_eq!((code, &answer["kind"]), (200, &json!("NamespaceList")));
    let who = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
    let request = request.header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(&who).unwrap()).unwrap();
    let answer: Value = client.request(request).await.unwrap();
    let user = &answer["status"]["userInfo"];
    assert_eq!(user["username"], "kubernetes-admin");
    assert_eq!(
        user["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    served.stop().await;
}

#[tokio::test]
async fn everybody_else_stays_outside() {
    let served = Served::start().await;
    let now = Timestamp::now();
    let stranger = Identity::in_memory(now).unwrap();
    let foreign = stranger.issue(&admin(), now).unwrap();
    let foreign = served.with_certificate(&foreign);
    let past = now.checked_sub((2 * 365 * 24).hours()).unwrap();
    let identity = Identity::in_memory(past).unwrap();
    let expired = served.with_certificate(&identity.issue(&admin(), past).unwrap());
    let nobody = served.client(AuthInfo::default());
    let guess = served.with_token("guess");
    for (client, path, code, message) in [
        (&nobody, "/version", 200, ""),
        (&nobody, "/readyz", 200, ""),
        (
            &nobody,
            "/api",
            403,
            "forbidden: User \"system:anonymous\" cannot get path \"/api\"",
        ),
        (
            &nobody,
            "/api/v1/secrets",
            403,
            "secrets is forbidden: User \"system:anonymous\" cannot list resource \"secrets\" in \
             API group \"\" at the cluster scope",
        ),
        (&foreign, "/version", 401, "Unauthorized"),
        (&expired, "/api/v1/nodes", 401, "Unauthorized"),
        (&guess, "/version", 401, "Unauthorized"),
    ] {
        let (found, answer) = get(client, path).await;
        assert_eq!(found, code, "{path}: {answer}");
        assert_eq!(answer["message"].as_str().unwrap_or_default(), message);
    }
    served.stop().await;
}

/// A certificate of ours is no good for another purpose than its own.
#[tokio::test]
async fn a_certificate_for_servers_says_nothing_about_clients() {
    let identity = Arc::new(Identity::in_memory(Timestamp::now()).unwrap());
    let served = Served::start().await;
    let subject = Subject {
        purpose: Purpose::Server(vec!["localhost".to_owned()]),
        ..admin()
    };
    let serving = identity.issue(&subject, Timestamp::now()).unwrap();
    let (code, _) = get(&served.with_certificate(&serving), "/version").await;
    assert_eq!(code, 401);
    served.stop().await;
}

#[tokio::test]
async fn a_service_account_gets_in_with_its_token_until_it_is_gone() {
    let served = Served::start().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let send = async |method: &str, path: &str, body: Value| {
        served
            .api
            .send(method, path, "application/json", &body)
            .await
    };
    let (code, account) = send("POST", accounts, json!({"metadata": {"name": "robot"}})).await;
    assert_eq!(code, 201, "{account}");
    let path = format!("{accounts}/robot/token");
    let (code, answer) = send("POST", &path, json!({"spec": {"expirationSeconds": 600}})).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["kind"], "TokenRequest");
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    let client = served.with_token(&token);
    let (code, answer) = get(&client, "/api/v1/namespaces/default/pods").await;
    let words = "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list \
                 resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!((code, answer["message"].as_str()), (403, Some(words)));
    let (code, keys) = get(&client, "/openid/v1/jwks").await;
    assert_eq!((code, &keys["keys"][0]["kty"]), (200, &json!("EC")));
    let binding = json!({"metadata": {"name": "robots"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let (code, answer) = send("POST", bindings, binding).await;
    assert_eq!(code, 201, "{answer}");
    let (code, _) = get(&client, "/api/v1/namespaces/default/pods").await;
    assert_eq!(code, 200);
    let (code, _) = send("DELETE", &format!("{accounts}/robot"), Value::Null).await;
    assert_eq!(code, 200);
    let (code, _) = send("POST", accounts, json!({"metadata": {"name": "robot"}})).await;
    assert_eq!(code, 201);
    let (code, _) = get(&client, "/api/v1/namespaces/default/pods").await;
    assert_eq!(code, 401, "another account of this name is another account");
    served.stop().await;
}

/// Over the socket, as over memory: what is written is seen by who watches, and the end of the
/// server is the end of the watch and no error.
#[tokio::test]
async fn watches_run_until_the_server_stops() {
    let served = Served::start().await;
    let client = served.with_certificate(&served.admin);
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let nodes: Api<Node> = Api::all(client);
    let mut watch = Box::pin(nodes.watch(&WatchParams::default(), "0").await.unwrap());
    let node = serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let event = watch.try_next().await.unwrap().unwrap();
    assert!(
        matches!(event, kube::core::WatchEvent::Added(node) if node.metadata.name.as_deref() == Some("n"))
    );
    namespaces.get("default").await.unwrap();
    let (rest, ()) = tokio::join!(watch.try_collect::<Vec<_>>(), served.stop());
    assert!(rest.unwrap().is_empty());
}

/// Clients that say nothing, or nonsense, cost a slot for a while and nobody else anything.
#[tokio::test]
async fn silent_and_foolish_clients_do_not_disturb() {
    let served = Served::start().await;
    let address = served.address();
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut foolish = TcpStream::connect(address).await.unwrap();
    foolish.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // What TLS makes of it ends the connection, with or without a word.
    let _ = foolish.read_to_end(&mut answer).await;
    let client = served.with_certificate(&served.admin);
    let (code, _) = get(&client, "/api/v1/namespaces").await;
    assert_eq!(code, 200);
    let stopped = tokio::time::timeout(Duration::from_secs(30), served.stop()).await;
    assert!(stopped.is_ok(), "nobody keeps the server from ending");
    for mut stream in silent {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}
