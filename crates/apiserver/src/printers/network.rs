//! Columns of services, ingresses and endpoints.

use schema::Value;

use super::{Cell, some_of};

const LOAD_BALANCER_WIDTH: usize = 16;

fn balancer(object: &Value) -> String {
    let mut names: Vec<&str> = object
        .list_at(&["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| if i.str_at(&["ip"]).is_empty() { i.str_at(&["hostname"]) } else { i.str_at(&["ip"]) })
        .filter(|n| !n.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    let joined = names.join(",");
    match joined.get(..LOAD_BALANCER_WIDTH - 3) {
        Some(head) if joined.len() > LOAD_BALANCER_WIDTH => format!("{head}..."),
        _ => joined,
    }
}

pub fn call(name: &str, cell: &Cell<'_>) -> Value {
    let object = cell.object;
    match name {
        "service.clusterIP" => match object["spec"]["clusterIPs"][0].as_str() {
            Some(ip) => ip.into(),
            None => "<none>".into(),
        },
        "service.externalIP" => {
            let external = object["spec"]["externalIPs"].texts();
            match object.str_at(&["spec", "type"]) {
                "ClusterIP" | "NodePort" if external.is_empty() => "<none>".into(),
                "ClusterIP" | "NodePort" => external.join(",").into(),
                "LoadBalancer" => {
                    let mut all: Vec<String> =
                        balancer(object).split(',').filter(|p| !p.is_empty()).map(str::to_owned).collect();
                    all.extend(external);
                    if all.is_empty() { "<pending>".into() } else { all.join(",").into() }
                }
                "ExternalName" => object.str_at(&["spec", "externalName"]).into(),
                _ => "<unknown>".into(),
            }
        }
        "service.ports" => {
            let ports = object.list_at(&["spec", "ports"]).iter().map(|p| {
                let (number, protocol) = (p.i64_at(&["port"]).unwrap_or(0), p.str_at(&["protocol"]));
                match p.i64_at(&["nodePort"]) {
                    Some(node) if node > 0 => format!("{number}:{node}/{protocol}"),
                    _ => format!("{number}/{protocol}"),
                }
            });
            let text = ports.collect::<Vec<_>>().join(",");
            if text.is_empty() { "<none>".into() } else { text.into() }
        }
        "ingress.class" => match object.str_at(&["spec", "ingressClassName"]) {
            "" => "<none>".into(),
            class => class.into(),
        },
        "ingress.hosts" => {
            let rules = object.list_at(&["spec", "rules"]);
            let hosts: Vec<String> =
                rules.iter().map(|r| r.str_at(&["host"])).filter(|h| !h.is_empty()).map(str::to_owned).collect();
            if hosts.is_empty() { "*".into() } else { some_of(&hosts, 3, ",").into() }
        }
        "ingress.address" => balancer(object).into(),
        "ingress.ports" => if object["spec"]["tls"].is_empty() { "80" } else { "80, 443" }.into(),
        "ingressClass.parameters" => {
            let parameters = &object["spec"]["parameters"];
            if parameters.is_null() {
                return "<none>".into();
            }
            let group = parameters.str_at(&["apiGroup"]);
            let kind = parameters.str_at(&["kind"]);
            let kind = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
            format!("{kind}/{}", parameters.str_at(&["name"])).into()
        }
        "endpoints.addresses" => endpoints(object).into(),
        "endpointSlice.ports" => {
            let ports = object.list_at(&["ports"]).iter().map(|p| match p.i64_at(&["port"]) {
                Some(number) => number.to_string(),
                None if !p["name"].is_null() => p.str_at(&["name"]).to_owned(),
                None => "*".into(),
            });
            unset(some_of(&ports.collect::<Vec<_>>(), 3, ","))
        }
        "endpointSlice.endpoints" => {
            let all: Vec<String> = object.list_at(&["endpoints"]).iter().flat_map(|e| e["addresses"].texts()).collect();
            unset(some_of(&all, 3, ","))
        }
        "ipAddress.parent" => {
            let parent = &object["spec"]["parentRef"];
            let mut text = crate::request::GroupResource::new(parent.str_at(&["group"]), parent.str_at(&["resource"]))
                .to_string()
                .to_lowercase();
            for field in ["namespace", "name"] {
                let part = parent.str_at(&[field]);
                if !part.is_empty() {
                    text.push_str(&format!("/{part}"));
                }
            }
            text.into()
        }
        _ => "".into(),
    }
}

fn unset(text: String) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in object.list_at(&["subsets"]) {
        let addresses = || subset.list_at(&["addresses"]).iter().map(|a| a.str_at(&["ip"]));
        let ports = subset.list_at(&["ports"]);
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            let number = port.i64_at(&["port"]).unwrap_or(0);
            all.extend(
                addresses().map(
                    |ip| {
                        if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }
                    },
                ),
            );
        }
    }
    if all.is_empty() { "<none>".into() } else { some_of(&all, 3, ",") }
}
