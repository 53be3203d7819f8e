//! A thousand pods in one process.

use std::collections::BTreeSet;

use coracle_tests::{Coracle, get, repository};

/// How many pods one run holds here: the number that the project promises for a machine of two cores.
const PODS: usize = 1_000;

/// Every pod is ready and answers, each at an address of its own.
#[test]
fn a_thousand_pods_answer_in_one_process() {
    let image = repository().join("samples/hello-http/hello-http.wasm");
    let manifest: String = (0..PODS)
        .map(|number| {
            format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}}}\nspec:\n  containers:\n  \
                 - name: web\n    image: {}\n    ports: [{{name: http, containerPort: 8080}}]\n",
                image.display()
            )
        })
        .collect();
    let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
    let mut run = coracle.start(&["run", "-"], &manifest);
    let mut addresses = BTreeSet::new();
    while addresses.len() < PODS {
        let url = run.next_address("http");
        assert!(addresses.insert(url.clone()), "{url} is told once");
    }
    for url in &addresses {
        assert_eq!(get(url, "/").map(|answer| answer.status), Ok(200), "{url}");
    }
    run.interrupt();
    assert_eq!(run.end().code, Some(0));
}
