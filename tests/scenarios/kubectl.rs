//! Stock kubectl notices nothing unusual about `coracle up`.
//!
//! It is not on every machine, so `CORACLE_TEST_PEERS=1` switches these scenarios on; then a missing
//! program is a failure. Every kubectl that is found is tried.

use std::io::{BufRead, BufReader};

use coracle_tests::{Cluster, Coracle, Kubectl, repository};

/// Runs a scenario with every kubectl on a cluster of its own.
fn with_each_kubectl(scenario: impl Fn(&Coracle, &Cluster, &Kubectl)) {
    if std::env::var_os("CORACLE_TEST_PEERS").is_none_or(|value| value != "1") {
        return;
    }
    let programs = Kubectl::programs();
    assert!(!programs.is_empty(), "`kubectl` is installed");
    for program in programs {
        eprintln!("with {}", program.display());
        let coracle = Coracle::new(env!("CARGO_BIN_EXE_coracle"));
        let cluster = Cluster::start(&coracle);
        let kubectl = Kubectl::new(&program, cluster.kubeconfig());
        scenario(&coracle, &cluster, &kubectl);
        cluster.run.interrupt();
        assert_eq!(cluster.run.end().code, Some(0));
    }
}

/// Puts the components of samples into the cluster's image store.
fn build_images(coracle: &Coracle) {
    for (name, file) in [
        ("hello:1", "samples/hello-http/hello-http.wasm"),
        ("batch:1", "samples/batch/batch.wasm"),
    ] {
        let file = repository().join(file);
        let file = file.to_str().expect("the folder's name is text");
        let built = coracle.finish(&["image", "build", file, "--tag", name]);
        assert_eq!(built.code, Some(0), "{built:?}");
    }
}

fn contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

const HELLO: &str = "\
apiVersion: v1
kind: Pod
metadata:
  name: hello
  labels: {app: hello}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: hello:1
    imagePullPolicy: Never
    ports: [{name: http, containerPort: 80}]
";

const CONFIG: &str = "\
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: red, size: large}
";

/// A cluster tells about itself.
#[test]
fn a_cluster_tells_about_itself() {
    with_each_kubectl(|_, _, kubectl| {
        contains(&kubectl.ok("version"), &["Server Version: v1.36"]);
        contains(
            &kubectl.ok("cluster-info"),
            &["control plane", "is running at"],
        );
        contains(
            &kubectl.ok("api-versions"),
            &[
                "v1\n",
                "rbac.authorization.k8s.io/v1",
                "coordination.k8s.io/v1",
            ],
        );
        contains(
            &kubectl.ok("api-resources"),
            &[
                "NAMESPACED",
                "po ",
                "ConfigMap",
                "clusterroles",
                "EndpointSlice",
            ],
        );
        contains(
            &kubectl.ok("get nodes"),
            &["NAME", "STATUS", "ROLES", "AGE", "VERSION", "Ready"],
        );
        contains(
            &kubectl.ok("get nodes -o wide"),
            &[
                "INTERNAL-IP",
                "OS-IMAGE",
                "KERNEL-VERSION",
                "CONTAINER-RUNTIME",
            ],
        );
        contains(
            &kubectl.ok("describe nodes"),
            &["Capacity:", "Allocatable:", "Conditions:"],
        );
        contains(
            &kubectl.ok("get namespaces"),
            &[
                "default ",
                "kube-system ",
                "kube-public ",
                "kube-node-lease ",
                "Active",
            ],
        );
        contains(
            &kubectl.ok("explain pod.spec.containers"),
            &["FIELD", "image", "<string>"],
        );
        contains(
            &kubectl.ok("explain configmap --recursive"),
            &["binaryData", "immutable"],
        );
        contains(&kubectl.ok("config current-context"), &["coracle"]);
        contains(&kubectl.ok("config view"), &["server: https://127.0.0.1:"]);
        assert_eq!(kubectl.ok("get --raw /readyz"), "ok");
        contains(&kubectl.ok("auth whoami"), &["Username"]);
        assert_eq!(kubectl.ok("auth can-i delete pods").trim(), "yes");
        let someone = kubectl.tell(&["auth", "can-i", "delete", "pods", "--as", "someone"], "");
        assert_eq!((someone.code, someone.stdout.trim()), (1, "no"));
        contains(&kubectl.ok("auth can-i --list"), &["*.*"]);
    });
}

/// Objects are created, looked at, changed and deleted in every way.
#[test]
// tidy: table, because the story is one command after the other
fn objects_live_through_every_command() {
    with_each_kubectl(|_, _, kubectl| {
        for (line, told) in [
            ("create namespace boat", "namespace/boat created"),
            (
                "create configmap plain --from-literal=a=1",
                "configmap/plain created",
            ),
            (
                "create secret generic quiet --from-literal=p=s3cret",
                "secret/quiet created",
            ),
            (
                "create serviceaccount rower",
                "serviceaccount/rower created",
            ),
            (
                "create quota few --hard=pods=2 -n boat",
                "resourcequota/few created",
            ),
            (
                "create role reader --verb=get,list --resource=pods",
                "role.rbac.authorization.k8s.io/reader created",
            ),
            (
                "create rolebinding readers --role=reader --serviceaccount=default:rower",
                "rolebinding.rbac.authorization.k8s.io/readers created",
            ),
            (
                "create clusterrole all --verb=* --resource=*",
                "clusterrole.rbac.authorization.k8s.io/all created",
            ),
            (
                "create priorityclass high --value=1000",
                "priorityclass.scheduling.k8s.io/high created",
            ),
            (
                "create service clusterip web --tcp=80:8080",
                "service/web created",
            ),
            (
                "label configmap plain tier=front",
                "configmap/plain labeled",
            ),
            (
                "annotate configmap plain note=hello",
                "configmap/plain annotated",
            ),
        ] {
            assert_eq!(kubectl.ok(line).trim(), told, "{line}");
        }
        contains(&kubectl.ok("create token rower"), &["."]);
        let rower = [
            "auth",
            "can-i",
            "list",
            "pods",
            "--as",
            "system:serviceaccount:default:rower",
        ];
        assert_eq!(kubectl.tell(&rower, "").stdout.trim(), "yes");
        contains(
            &kubectl.ok("get configmap plain -o yaml"),
            &["a: \"1\"", "tier: front", "note: hello"],
        );
        assert_eq!(kubectl.ok("get configmap plain -o jsonpath={.data.a}"), "1");
        contains(
            &kubectl.ok("get cm -l tier=front -o custom-columns=N:.metadata.name,A:.data.a"),
            &["N ", "plain"],
        );
        assert_eq!(
            kubectl.ok("get secret quiet -o jsonpath={.data.p}"),
            "czNjcmV0"
        );
        contains(&kubectl.ok("get svc web"), &["ClusterIP", "80/TCP"]);
        contains(&kubectl.ok("describe quota few -n boat"), &["pods", "2"]);

        let applied = |line: &str, input: &str| kubectl.ok_with(line, input).trim().to_owned();
        assert_eq!(applied("apply -f -", CONFIG), "configmap/settings created");
        assert_eq!(
            applied("apply -f -", CONFIG),
            "configmap/settings unchanged"
        );
        let blue = CONFIG.replace("red", "blue");
        let diff = kubectl.tell(&["diff", "-f", "-"], &blue);
        assert_eq!(diff.code, 1, "{diff:?}");
        contains(&diff.stdout, &["-  colour: red", "+  colour: blue"]);
        assert_eq!(
            applied("apply -f -", &blue),
            "configmap/settings configured"
        );
        assert_eq!(
            applied("apply --server-side -f -", &blue),
            "configmap/settings serverside-applied"
        );
        let other = ["apply", "--server-side", "--field-manager=other", "-f", "-"];
        let conflict = kubectl.tell(&other, CONFIG);
        assert_eq!(conflict.code, 1, "{conflict:?}");
        contains(
            &conflict.stderr,
            &["conflict with \"kubectl\"", ".data.colour"],
        );
        let forced = [
            "apply",
            "--server-side",
            "--field-manager=other",
            "--force-conflicts",
            "-f",
            "-",
        ];
        assert_eq!(kubectl.tell(&forced, CONFIG).code, 0);
        assert_eq!(
            kubectl.ok("get cm settings -o jsonpath={.data.colour}"),
            "red"
        );

        let patch = |kind: &str, patch: &str| {
            kubectl.tell(
                &[
                    "patch",
                    "configmap",
                    "settings",
                    "--type",
                    kind,
                    "-p",
                    patch,
                ],
                "",
            )
        };
        assert_eq!(patch("merge", r#"{"data":{"size":"small"}}"#).code, 0);
        assert_eq!(patch("strategic", r#"{"data":{"extra":"1"}}"#).code, 0);
        assert_eq!(
            patch("json", r#"[{"op":"remove","path":"/data/extra"}]"#).code,
            0
        );
        assert_ne!(
            patch("json", r#"[{"op":"remove","path":"/data/none"}]"#).code,
            0
        );
        assert_eq!(
            kubectl.ok("get cm settings -o jsonpath={.data}"),
            r#"{"colour":"red","size":"small"}"#
        );
        let replaced = kubectl
            .ok("get cm settings -o yaml")
            .replace("small", "huge");
        assert_eq!(
            applied("replace -f -", &replaced),
            "configmap/settings replaced"
        );
        let edited = kubectl
            .command(&["edit", "configmap", "settings"])
            .env("KUBE_EDITOR", "sed -i s/huge/tiny/")
            .output()
            .expect("kubectl starts");
        assert!(edited.status.success(), "{edited:?}");
        assert_eq!(
            kubectl.ok("get cm settings -o jsonpath={.data.size}"),
            "tiny"
        );

        let strict = kubectl.tell(&["apply", "-f", "-"], &CONFIG.replace("\ndata:", "\ndtaa:"));
        assert_eq!(strict.code, 1, "{strict:?}");
        contains(
            &strict.stderr,
            &["strict decoding error", "unknown field \"dtaa\""],
        );
        contains(
            &kubectl.fails("get pods nobody"),
            &["Error from server (NotFound): pods \"nobody\" not found"],
        );
        contains(
            &kubectl.fails("create configmap Bad_Name"),
            &["Invalid value: \"Bad_Name\""],
        );
        contains(
            &kubectl.fails("get sloops"),
            &["the server doesn't have a resource type \"sloops\""],
        );
        contains(
            &kubectl.fails("get pods --as someone"),
            &["User \"someone\" cannot list resource \"pods\""],
        );

        kubectl.ok("delete configmap plain settings");
        kubectl.ok("delete secret quiet");
        contains(
            &kubectl.ok("delete namespace boat"),
            &["namespace \"boat\" deleted"],
        );
        contains(&kubectl.fails("get namespace boat"), &["NotFound"]);
    });
}

/// What `get -o yaml` prints of several objects. kubectl checks it itself, with OpenAPI v2.
const LIST: &str = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: first}
  data: {colour: red}
- apiVersion: v1
  kind: Service
  metadata: {name: second}
  spec:
    selector: {app: hello}
    ports: [{port: 80, targetPort: http}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: Role
  metadata: {name: third}
  rules: [{apiGroups: [''], resources: [pods], verbs: [get]}]
";

/// Objects that stand in a list are created, applied, replaced and deleted like any others.
#[test]
fn lists_of_objects_are_taken() {
    with_each_kubectl(|coracle, _, kubectl| {
        let role = "role.rbac.authorization.k8s.io/third";
        let each =
            |said: &str| format!("configmap/first {said}\nservice/second {said}\n{role} {said}");
        let with = |line: &str, input: &str| kubectl.ok_with(line, input).trim().to_owned();
        assert_eq!(with("create -f -", LIST), each("created"));
        // What was created without a note of it is given one.
        kubectl.tell(&["apply", "-f", "-"], LIST);
        assert_eq!(with("apply -f -", LIST), each("unchanged"));
        let blue = LIST.replace("red", "blue");
        let diff = kubectl.tell(&["diff", "-f", "-"], &blue);
        assert_eq!(diff.code, 1, "{diff:?}");
        contains(&diff.stdout, &["-  colour: red", "+  colour: blue"]);
        contains(&with("apply -f -", &blue), &["configmap/first configured"]);
        assert_eq!(with("replace -f -", LIST), each("replaced"));

        let wrong = LIST.replace("targetPort", "targetProt");
        for verb in ["create", "apply", "replace"] {
            let refused = kubectl.tell(&[verb, "-f", "-"], &wrong);
            assert_eq!(refused.code, 1, "{refused:?}");
            contains(&refused.stderr, &["unknown field", "targetProt"]);
        }
        contains(&with("delete -f -", LIST), &["configmap \"first\" deleted"]);
        contains(&kubectl.fails("get configmap first"), &["NotFound"]);

        build_images(coracle);
        kubectl.ok_with("apply -f -", HELLO);
        kubectl.ok("wait pod/hello --for=condition=Ready --timeout=60s");
        let printed = kubectl.ok("get pods -o yaml");
        contains(&printed, &["kind: List", "name: hello"]);
        contains(&with("apply -f -", &printed), &["pod/hello "]);
        let printed = kubectl
            .ok("get pods -o yaml")
            .replace("app: hello", "app: hallo");
        assert_eq!(with("replace -f -", &printed), "pod/hello replaced");
        contains(&kubectl.ok("get pods -l app=hallo"), &["hello", "Running"]);
    });
}

/// A node is emptied and filled again, and a pod gets a Service.
#[test]
fn nodes_and_services_are_tended() {
    with_each_kubectl(|coracle, _, kubectl| {
        build_images(coracle);
        kubectl.ok_with("apply -f -", HELLO);
        kubectl.ok("wait pod/hello --for=condition=Ready --timeout=60s");
        let exposed = kubectl.ok("expose pod hello --name front --port 8000 --target-port 80");
        assert_eq!(exposed.trim(), "service/front exposed");
        contains(&kubectl.ok("get all -A"), &["pod/hello", "service/front"]);
        kubectl.ok("logs svc/front");
        contains(
            &kubectl
                .ok("run once --rm -i --restart=Never --image=batch:1 --image-pull-policy=Never"),
            &["pod \"once\" deleted"],
        );

        let node = kubectl.ok("get nodes -o jsonpath={.items[0].metadata.name}");
        let of_node = |line: &str| kubectl.ok(&line.replace("NODE", &node));
        contains(
            &of_node("taint nodes NODE full=yes:NoSchedule"),
            &["tainted"],
        );
        kubectl.ok("run late --image=hello:1 --image-pull-policy=Never");
        kubectl.ok("wait pod/late --for=condition=PodScheduled=false --timeout=60s");
        contains(&of_node("taint nodes NODE full-"), &["untainted"]);
        kubectl.ok("wait pod/late --for=condition=Ready --timeout=60s");
        contains(
            &of_node("drain NODE --force --grace-period=1 --timeout=60s"),
            &["pod/hello evicted", "pod/late evicted", "drained"],
        );
        contains(&of_node("get node NODE"), &["SchedulingDisabled"]);
        contains(&of_node("uncordon NODE"), &["uncordoned"]);
    });
}

/// Folders with a kustomization are applied, and what is no longer in them is pruned.
#[test]
fn folders_are_applied_and_pruned() {
    with_each_kubectl(|_, _, kubectl| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("a file is written");
        };
        let in_folder = |line: &str| {
            let path = folder.path().to_str().expect("the folder's name is text");
            kubectl.ok(&line.replace("FOLDER", path)).trim().to_owned()
        };
        write("settings.yaml", CONFIG);
        write(
            "kustomization.yaml",
            "resources: [settings.yaml]\nnamePrefix: my-\ncommonAnnotations: {made: here}\n",
        );
        let said = in_folder("apply -k FOLDER --dry-run=server");
        assert_eq!(said, "configmap/my-settings created (server dry run)");
        assert_eq!(
            in_folder("apply -k FOLDER"),
            "configmap/my-settings created"
        );
        assert_eq!(in_folder("diff -k FOLDER"), "");
        contains(&in_folder("delete -k FOLDER"), &["\"my-settings\" deleted"]);

        let both = CONFIG.replace("settings}", "settings, labels: {set: all}}");
        let second = both.replace("settings,", "others,");
        write("settings.yaml", &format!("{both}---\n{second}"));
        let apply = "apply -f FOLDER/settings.yaml -l set=all --prune \
                     --prune-allowlist=core/v1/ConfigMap";
        contains(&in_folder(apply), &["settings created", "others created"]);
        write("settings.yaml", &both);
        contains(&in_folder(apply), &["settings unchanged", "others pruned"]);
    });
}

/// What is not served is named, whatever asks for it.
#[test]
fn what_is_not_served_is_refused_by_name() {
    with_each_kubectl(|_, _, kubectl| {
        for (line, told) in [
            (
                "create deployment web --image=hello:1",
                "`deployments` of `apps/v1` is not served here",
            ),
            (
                "create job once --image=batch:1",
                "`jobs` of `batch/v1` is not served here",
            ),
            (
                "get --raw /apis/metrics.k8s.io/v1beta1/nodes",
                "`nodes` of `metrics.k8s.io/v1beta1` is not served here",
            ),
            ("top pods", "Metrics API not available"),
            (
                "rollout status deployment/web",
                "resource type \"deployment\"",
            ),
            (
                "autoscale deployment web --max=3",
                "resource type \"deployment\"",
            ),
        ] {
            contains(&kubectl.fails(line), &[told]);
        }
    });
}

/// A pod is followed from its creation to its end.
#[test]
fn a_pod_is_followed_to_its_end() {
    with_each_kubectl(|coracle, _, kubectl| {
        build_images(coracle);
        let mut watch = kubectl
            .command(&["get", "pods", "-w", "--no-headers"])
            .spawn()
            .expect("kubectl starts");
        let lines = BufReader::new(watch.stdout.take().expect("stdout is piped")).lines();
        kubectl.ok_with("apply -f -", HELLO);
        kubectl.ok("wait pod/hello --for=condition=Ready --timeout=60s");
        contains(
            &kubectl.ok("get pods -o wide"),
            &[
                "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "1/1", "Running",
            ],
        );
        contains(
            &kubectl.ok("describe pod hello"),
            &[
                "Container ID:",
                "Ready:",
                "QoS Class:",
                "Events:",
                "Scheduled",
                "Started",
            ],
        );
        contains(
            &kubectl.ok("get events"),
            &["Successfully assigned default/hello", "pod/hello"],
        );
        contains(&kubectl.ok("events"), &["Scheduled"]);
        kubectl.ok("expose pod hello --port=8080 --target-port=80");
        // The slice comes a moment after the Service.
        kubectl.ok("wait endpointslices -l kubernetes.io/service-name=hello --for=jsonpath={.endpoints[0].conditions.ready}=true --timeout=60s");
        for path in ["pods/hello:80", "services/hello:8080"] {
            let path = format!("get --raw /api/v1/namespaces/default/{path}/proxy/a?b");
            contains(&kubectl.ok(&path), &["Hello"]);
        }
        contains(
            &kubectl.ok("get --raw /api/v1/nodes/coracle/proxy/pods"),
            &["PodList", "hello"],
        );
        kubectl.ok("delete pod,service hello");
        let seen: Vec<String> = lines
            .map_while(Result::ok)
            .take_while(|line| !line.contains("Terminating"))
            .collect();
        assert!(seen.iter().any(|line| line.contains("Running")), "{seen:?}");
        watch.kill().expect("kubectl still watches");
        watch.wait().expect("kubectl ends");
        contains(&kubectl.fails("get pod hello"), &["NotFound"]);
    });
}

/// What a container has written is told by `logs`.
#[test]
fn logs_are_told() {
    with_each_kubectl(|coracle, _, kubectl| {
        build_images(coracle);
        let manifest = std::fs::read_to_string(repository().join("samples/batch/pod.yaml"))
            .expect("the sample has a manifest")
            .replace("./batch.wasm", "batch:1");
        kubectl.ok_with("apply -f -", &manifest);
        let name = "pod/batch";
        kubectl.ok(&format!(
            "wait {name} --for=jsonpath={{.status.phase}}=Succeeded --timeout=60s"
        ));
        let all = kubectl.ok(&format!("logs -f {name}"));
        let count = all.lines().count();
        assert!(count > 0, "the batch writes lines");
        let last = kubectl.ok(&format!("logs --tail=1 {name}"));
        assert_eq!(last.trim_end(), all.lines().last().unwrap_or_default());
        assert_eq!(kubectl.ok(&format!("logs --since=1h {name}")), all);
        let stamped = kubectl.ok(&format!("logs --timestamps {name}"));
        assert!(
            stamped.lines().all(|line| line.starts_with("20")),
            "{stamped}"
        );
        contains(&kubectl.fails("logs nobody"), &["NotFound"]);
        contains(
            &kubectl.fails(&format!("logs {name} -c other")),
            &["container other is not valid for pod batch"],
        );
    });
}
