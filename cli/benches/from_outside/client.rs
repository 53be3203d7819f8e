//! A client of a cluster that runs beside the benchmark, with the credentials that it wrote.

use coracle_tests::Cluster;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Returns a client with a connection of its own.
///
/// # Panics
///
/// Panics when the cluster's kubeconfig cannot be used.
pub(crate) async fn client(cluster: &Cluster) -> Client {
    let config = Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .expect("the kubeconfig is complete");
    Client::try_from(config).expect("a client")
}
