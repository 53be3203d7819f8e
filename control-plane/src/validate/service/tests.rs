//! Services and what Kubernetes says about them.

use super::*;
use crate::{admission, defaults, kinds};

fn check(spec: Value, expected: &[&str]) {
    check_change(spec, None, expected);
}

fn check_change(spec: Value, old: Option<Value>, expected: &[&str]) {
    let mut object = json!({"metadata": {"name": "s"}, "spec": spec});
    let old = old.map(|old| json!({"spec": old}));
    defaults::service(&mut object);
    let services = kinds::served("v1", "Service").expect("services are in the table");
    admission::assume(services, &mut object);
    let mut causes = Causes::default();
    service(&object, old.as_ref(), &mut causes);
    let found: Vec<_> = causes
        .into_vec()
        .iter()
        .map(|cause| cause.sentence())
        .collect();
    assert_eq!(found, expected, "{object}");
}

#[test]
fn good_services_are_accepted() {
    let ports = json!([{"port": 80}]);
    check(json!({"ports": ports}), &[]);
    check(json!({"clusterIP": "None"}), &[]);
    check(
        json!({"type": "ExternalName", "externalName": "a.example."}),
        &[],
    );
    check(
        json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
        &[],
    );
    check(
        json!({"type": "LoadBalancer", "ports": ports, "loadBalancerClass": "a.b/c"}),
        &[],
    );
    check(json!({"clusterIP": "10.96.0.9", "ports": ports}), &[]);
}

#[test]
// tidy: table, because each line is a service and what is said about it
fn services_are_checked() {
    let ports = json!([{"port": 80}]);
    check(json!({}), &["spec.ports: Required value"]);
    check(
        json!({"type": "Magic", "ports": ports}),
        &[
            "spec.type: Unsupported value: \"Magic\": supported values: \"ClusterIP\", \
           \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
        ],
    );
    check(
        json!({"type": "ExternalName"}),
        &["spec.externalName: Required value"],
    );
    check(
        json!({"type": "NodePort", "clusterIP": "None", "ports": ports}),
        &[
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort \
           services",
        ],
    );
    check(
        json!({"ports": [{"port": 1}, {"port": 1}]}),
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Required value",
            "spec.ports[1]: Duplicate value: {\"port\":1,\"protocol\":\"TCP\"}",
        ],
    );
    check(
        json!({"ports": [{"port": 0, "targetPort": "Bad"}]}),
        &[
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            "spec.ports[0].targetPort: Invalid value: \"Bad\": must contain only alpha-numeric \
             characters (a-z, 0-9), and hyphens (-)",
        ],
    );
    check(
        json!({"ports": [{"port": 1, "nodePort": 30000}]}),
        &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
    );
    check(
        json!({"ports": ports, "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
        &[
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be \
           greater than 0 and less than 86400",
        ],
    );
    check(
        json!({"ports": ports, "externalIPs": ["127.0.0.1"]}),
        &[
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range \
           (127.0.0.0/8, ::1/128)",
        ],
    );
    check(
        json!({"ports": ports, "clusterIP": "10.0.0.300"}),
        &[
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.300\": must be a valid IP address, (e.g. \
           10.9.8.7 or 2001:db8::ffff)",
        ],
    );
    check(
        json!({"ports": ports, "externalTrafficPolicy": "Local"}),
        &[
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for \
           externally-accessible services",
        ],
    );
    check(
        json!({"ports": ports, "healthCheckNodePort": 30000}),
        &[
            "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is \
           'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ],
    );
    check(
        json!({"ports": ports, "loadBalancerSourceRanges": ["1.2.3.4/33"]}),
        &[
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is \
             'LoadBalancer'",
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"1.2.3.4/33\": must be a valid CIDR \
             value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ],
    );
    check(
        json!({"ports": ports, "trafficDistribution": "Anywhere"}),
        &[
            "spec.trafficDistribution: Unsupported value: \"Anywhere\": supported values: \
           \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
        ],
    );
}

#[test]
fn what_is_allocated_stays() {
    let old = json!({"type": "ClusterIP", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"],
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
    let mut new = old.clone();
    new["ports"] = json!([{"port": 1}]);
    check_change(new.clone(), Some(old.clone()), &[]);
    new["clusterIP"] = json!("10.0.0.8");
    new["clusterIPs"] = json!(["10.0.0.8"]);
    check_change(
        new.clone(),
        Some(old.clone()),
        &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.8\"]: may not change once set"],
    );
    new["type"] = json!("ExternalName");
    new["externalName"] = json!("a.b");
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        new[field] = Value::Null;
    }
    check_change(new, Some(old), &[]);
}

#[test]
fn only_load_balancers_have_points_of_entry() {
    let check = |kind: &str, point: Value, expected: &[&str]| {
        let object = json!({"spec": {"type": kind},
            "status": {"loadBalancer": {"ingress": [point]}}});
        let mut causes = Causes::default();
        service_status(&object, &Value::Null, &mut causes);
        let found: Vec<_> = causes
            .into_vec()
            .iter()
            .map(|cause| cause.sentence())
            .collect();
        assert_eq!(found, expected, "{object}");
    };
    check(
        "LoadBalancer",
        json!({"ip": "1.2.3.4", "ipMode": "VIP"}),
        &[],
    );
    check(
        "ClusterIP",
        json!({"ip": "1.2.3.4"}),
        &[
            "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is \
           'LoadBalancer'",
        ],
    );
    check(
        "LoadBalancer",
        json!({"hostname": "1.2.3.4"}),
        &[
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, \
           not an IP address",
        ],
    );
}
