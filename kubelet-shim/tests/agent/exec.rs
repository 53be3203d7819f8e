//! Programs that are started in running containers, as the kubelet API offers it without streams.

use bytes::Bytes;
use coracle_kubelet_shim::Toolbox;
use http::Request;
use http_body_util::{BodyExt, Empty};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::DeleteParams;
use serde_json::json;
use tower::ServiceExt;

use crate::guests;
use crate::pods::{is_over, is_running, one, run};
use crate::world::World;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_program_sees_what_its_container_sees", || run(sees())),
    ("a_program_is_looked_up_as_a_shell_does", || run(found())),
    (
        "the_built_in_toolbox_answers_to_its_names_in_every_container",
        || run(toolbox_names()),
    ),
    ("a_program_runs_only_where_a_container_does", || {
        run(missing())
    }),
];

async fn post(world: &World, path: &str) -> (u16, String) {
    let request = Request::post(path).body(Empty::<Bytes>::new());
    let request = request.expect("a request");
    let answer = world.agent.kubelet().oneshot(request).await;
    let answer = answer.expect("every request is answered");
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("a body");
    (code, String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

pub(crate) async fn check(world: &World, path: &str, code: u16, expected: &str) {
    assert_eq!(
        post(world, path).await,
        (code, expected.to_owned()),
        "{path}"
    );
}

/// A toolbox with one tool, which says what it was called with.
pub(crate) fn toolbox() -> Toolbox {
    Toolbox {
        wasm: guests::says_arguments().into(),
        applets: vec!["sh".to_owned()],
    }
}

/// Runs a pod `p` whose container `main` spins, with some programs in `/tools`.
pub(crate) async fn spinning(world: &World) {
    let programs = json!({
        "show.wasm": ByteString(guests::shows_environment_and("tools/note")),
        "fails.wasm": ByteString(guests::says_and_exits("no", 3)),
        "args.wasm": ByteString(guests::says_arguments()),
        "spins.wasm": ByteString(guests::says_and_spins("round")),
    });
    let texts = json!({
        "note": "noted",
        "script": "#!/tools/args.wasm -x  y\nrest",
        "shell": "#!/bin/sh\necho",
        "alien": "#!/bin/nothing\n",
    });
    let map = json!({"metadata": {"name": "tools"}, "binaryData": programs, "data": texts});
    world.create::<ConfigMap>(map).await;
    let image = world.image("spins", &guests::says_and_spins("hello"));
    let mut containers = one(&image);
    containers[0]["env"] = json!([{"name": "GREETING", "value": "hi"}]);
    containers[0]["volumeMounts"] = json!([{"name": "tools", "mountPath": "/tools"}]);
    let volumes = json!([{"name": "tools", "configMap": {"name": "tools"}}]);
    world
        .pod("p", json!({"containers": containers, "volumes": volumes}))
        .await;
    world.until("p", is_running).await;
}

async fn sees() {
    let world = World::new().await;
    spinning(&world).await;
    let (code, text) = post(&world, "/run/default/p/main?cmd=/tools/show.wasm").await;
    assert_eq!(code, 200, "{text}");
    assert!(text.contains("GREETING=hi\0"), "{text:?}");
    assert!(text.contains("HOSTNAME=p\0"), "{text:?}");
    assert!(text.ends_with("noted\n"), "{text:?}");
    world.stop().await;
}

async fn found() {
    let world = World::with_toolbox(Some(toolbox())).await;
    spinning(&world).await;
    for (command, code, expected) in [
        ("/tools/args.wasm+a", 200, "/tools/args.wasm\0a\0"),
        ("tools/args.wasm", 200, "tools/args.wasm\0"),
        (
            "/tools/script+a",
            200,
            "/tools/args.wasm\0-x  y\0/tools/script\0a\0",
        ),
        ("sh+-c", 200, "sh\0-c\0"),
        ("/bin/sh", 200, "/bin/sh\0"),
        ("/tools/shell+a", 200, "/bin/sh\0/tools/shell\0a\0"),
        (
            "/tools/fails.wasm+a",
            500,
            "command '/tools/fails.wasm a' exited with 3: no\n",
        ),
        (
            "nothing",
            500,
            "exec: \"nothing\": executable file not found in $PATH",
        ),
        (
            "/tools/nothing",
            500,
            "exec: \"/tools/nothing\": stat /tools/nothing: no such file or directory",
        ),
        (
            "/tools/alien",
            500,
            "exec: \"/bin/nothing\": stat /bin/nothing: no such file or directory",
        ),
        (
            "/tools/note",
            500,
            "exec: \"/tools/note\": exec format error",
        ),
        ("/tools", 500, "exec: \"/tools\": exec format error"),
        ("", 500, "no command is given"),
    ] {
        let path = format!("/run/default/p/main?cmd={command}");
        check(&world, &path, code, expected).await;
    }
    world.stop().await;
}

/// The toolbox that is built into the program.
pub(crate) fn real_toolbox() -> Toolbox {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/toolbox");
    let read = |file| std::fs::read(format!("{samples}/{file}")).expect("the toolbox is here");
    let applets = String::from_utf8(read("applets.txt")).expect("text");
    Toolbox {
        wasm: read("toolbox.wasm").into(),
        applets: applets.lines().map(str::to_owned).collect(),
    }
}

async fn toolbox_names() {
    let toolbox = real_toolbox();
    let mut applets = toolbox.applets.join("\n");
    applets.push('\n');
    let world = World::with_toolbox(Some(toolbox)).await;
    spinning(&world).await;
    check(&world, "/run/default/p/main?cmd=toolbox", 200, &applets).await;
    let path = "/run/default/p/main?cmd=cat+/tools/note";
    check(&world, path, 200, "noted").await;
    let path = "/run/default/p/main?cmd=printenv+GREETING";
    check(&world, path, 200, "hi\n").await;
    world.stop().await;
}

async fn missing() {
    let world = World::new().await;
    check(
        &world,
        "/run/default/p/main?cmd=sh",
        404,
        "pod does not exist",
    )
    .await;
    spinning(&world).await;
    let uid = world.api::<Pod>().get("p").await.expect("a pod");
    let uid = uid.metadata.uid.expect("a UID");
    let path = format!("/run/default/p/{uid}/main?cmd=/tools/args.wasm");
    check(&world, &path, 200, "/tools/args.wasm\0").await;
    let path = "/run/default/p/another/main?cmd=/tools/args.wasm";
    check(&world, path, 404, "pod does not exist").await;
    let path = "/run/default/p/other?cmd=sh";
    check(&world, path, 404, "container not found (\"other\")").await;
    // Nothing is built in here.
    let text = "exec: \"sh\": executable file not found in $PATH";
    check(&world, "/run/default/p/main?cmd=sh", 500, text).await;
    let image = world.image("ends", &guests::says_and_exits("bye", 0));
    let spec = json!({"restartPolicy": "Never", "containers": one(&image)});
    world.pod("over", spec).await;
    world.until("over", is_over).await;
    let path = "/run/default/over/main?cmd=sh";
    check(&world, path, 404, "container not found (\"main\")").await;
    let now = DeleteParams::default().grace_period(1);
    world.api::<Pod>().delete("p", &now).await.expect("deleted");
    world.until_gone("p").await;
    // Whether the pod is forgotten too by now is not promised.
    assert_eq!(post(&world, "/run/default/p/main?cmd=sh").await.0, 404);
    world.stop().await;
}
