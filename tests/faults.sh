#!/bin/bash
# What goes wrong for users and operators, from outside: every mistake gets its answer, nothing falls over, and what was
# acknowledged stays. Each step asserts what somebody would see. world.sh says what it stands on; faults/ has the clients
# and the registry that misbehave.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tests/world.sh"
py() { at "$server" python3 "$here/tests/faults/$1.py" "${@:2}"; }

# ---- one request at a time, by curl

# keys KUBECONFIG NAME: its certificates as files.
keys() {
  local of
  for of in certificate-authority:ca client-certificate:crt client-key:key; do
    grep "${of%:*}-data" "$1" | awk '{print $2}' | base64 -d >"$work/$2.${of#*:}"
  done
}
who=admin place=$server token=
# http CODE METHOD PATH [curl's arguments]: as $who, or with $token; the answer is in $work/answer, its head in $work/head.
http() {
  local code=$1 method=$2 path=$3 got proof=(--cert "$work/$who.crt" --key "$work/$who.key"); shift 3
  [ -z "$token" ] || proof=(-H "Authorization: Bearer $token")
  # HTTP/1.1: curl takes the reset of a body that nobody wants for a failure.
  got=$(at "$place" curl -sS --http1.1 --max-time 60 --cacert "$work/$who.ca" "${proof[@]}" -o "$work/answer" -D "$work/head" -w '%{http_code}' \
    -X "$method" "$@" "https://127.0.0.1:6443$path")
  [ "$got" = "$code" ] || { echo "$method $path: $got, not $code"; head -c 2000 "$work/answer"; return 1; }
}
# refused CODE REASON TEXT METHOD PATH [curl's arguments]: an answer that is a Status with these.
refused() {
  local code=$1 reason=$2 text=$3; shift 3
  http "$code" "$@" || return 1
  jq -e --arg reason "$reason" --argjson code "$code" --arg text "$text" '.kind == "Status" and .apiVersion == "v1" and
    .status == "Failure" and .code == $code and (.reason // "") == $reason and (.message | contains($text))' "$work/answer" >"$work/jq" ||
    { echo "not $code $reason '$text': $*"; head -c 2000 "$work/answer"; return 1; }
}
json=(-H 'Content-Type: application/json')
yaml=(-H 'Content-Type: application/yaml')
proto=(-H 'Content-Type: application/vnd.kubernetes.protobuf')
maps=/api/v1/namespaces/faults/configmaps
deployments=/apis/apps/v1/namespaces/faults/deployments
# The server is still the process that was started.
alive() { kill -0 "$(cat "$work/server.pid")" && is ok k get --raw /livez && fails grep panicked "$work/log/server"; }

step_the_server_answers() {
  within 60 k get --raw /readyz
  keys "$KUBECONFIG" admin
  k create namespace faults
  within 10 k -n faults get serviceaccount default
}

step_silent_connections_do_not_stop_the_server() {
  at "$net" python3 "$here/tests/faults/silent.py" 10.99.0.1 6443 "$work/silent" "$work/admin.ca" "$work/admin.crt" "$work/admin.key" >"$work/log/silent" 2>&1 &
  echo $! >"$work/silent.pid"
  disown
  within 60 has 'all are open' "$work/silent"
  is ok k get --raw /readyz
  k -n faults create configmap loud --from-literal=a=1
  curl_ --cacert "$work/admin.ca" --cert "$work/admin.crt" --key "$work/admin.key" "https://10.99.0.1:6443$maps/loud" | has '"a": "1"'
}

deployment='{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"NAME"},"spec":{"replica":1,"replicas":0,"replicas":0,
  "selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"a","image":"a","imag":"a"}]}}}}'

step_unknown_and_duplicate_fields_are_named_all_at_once() {
  local said='Deployment in version "v1" cannot be handled as a Deployment: strict decoding error: unknown field "spec.replica", duplicate field "spec.replicas", unknown field "spec.template.spec.containers[0].imag"'
  refused 400 BadRequest "$said" POST "$deployments?fieldValidation=Strict" "${json[@]}" -d "${deployment/NAME/strict}"
  http 201 POST "$deployments?fieldValidation=Warn" "${json[@]}" -d "${deployment/NAME/warned}"
  for said in 'unknown field \"spec.replica\"' 'duplicate field \"spec.replicas\"' 'unknown field \"spec.template.spec.containers[0].imag\"'; do
    has "299 - \"$said\"" "$work/head"
  done
  http 201 POST "$deployments?fieldValidation=Ignore" "${json[@]}" -d "${deployment/NAME/ignored}"
  fails grep -qi '^warning' "$work/head"
  fails grep -q '"imag"' "$work/answer"
  # The same through kubectl, in YAML, and in each kind of patch.
  if k -n faults create -f - <<<"${deployment/NAME/strict}" 2>"$work/out"; then return 1; fi
  has 'strict decoding error: unknown field "spec.replica", unknown field "spec.template.spec.containers[0].imag"' "$work/out"
  local type
  for type in merge-patch strategic-merge-patch; do
    refused 422 Invalid 'strict decoding error: unknown field "metadata.label", unknown field "spec.replica"' PATCH "$deployments/warned?fieldValidation=Strict" \
      -H "Content-Type: application/$type+json" -d '{"metadata":{"label":{}},"spec":{"replica":2}}'
  done
  refused 422 Invalid 'strict decoding error: unknown field "spec.replica"' PATCH "$deployments/warned?fieldValidation=Strict" \
    -H 'Content-Type: application/json-patch+json' -d '[{"op":"add","path":"/spec/replica","value":1}]'
  refused 400 BadRequest 'key "replicas" already set in map' PATCH "$deployments/warned?fieldValidation=Strict&fieldManager=a&force=true" \
    -H 'Content-Type: application/apply-patch+yaml' -d '{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":1,"replicas":2}}'
  http 200 PATCH "$deployments/warned?fieldValidation=Warn" -H 'Content-Type: application/merge-patch+json' -d '{"spec":{"replica":2}}'
  has '299 - "unknown field \"spec.replica\""' "$work/head"
}

step_mistyped_fields_are_named() {
  local body
  body=$(jq -c '.spec.replicas = "three" | .metadata.name = "typed"' <<<"$deployment")
  refused 400 BadRequest 'Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32' \
    POST "$deployments" "${json[@]}" -d "$body"
  refused 422 Invalid 'json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32' PATCH "$deployments/warned" \
    -H 'Content-Type: application/merge-patch+json' -d '{"spec":{"replicas":"three"}}'
  # What validation finds comes all at once too, each with its place.
  body='{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Bad_Name"},"spec":{"restartPolicy":"Perhaps","containers":[{"name":"a","image":"a","ports":[{"containerPort":70000}]},{"name":"a"}]}}'
  refused 422 Invalid 'Pod "Bad_Name" is invalid: [' POST /api/v1/namespaces/faults/pods "${json[@]}" -d "$body"
  is '["metadata.name","spec.containers[0].ports[0].containerPort","spec.containers[1].image","spec.containers[1].name","spec.restartPolicy"]' \
    jq -c '[.details.causes[].field] | unique' "$work/answer"
}

step_too_large_objects_are_refused() {
  head -c 3200000 /dev/zero | tr '\0' a >"$work/large"
  { printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"large"},"data":{"a":"'; cat "$work/large"; printf '"}}'; } >"$work/large.json"
  refused 413 RequestEntityTooLarge 'Request entity too large: limit is 3145728' POST "$maps" "${json[@]}" --data-binary "@$work/large.json"
  refused 413 RequestEntityTooLarge 'Request entity too large: limit is 3145728' POST "$maps" "${json[@]}" -H 'Transfer-Encoding: chunked' --data-binary "@$work/large.json"
  { printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"large"},"data":{"a":"'; head -c 2000000 "$work/large"; printf '"}}'; } >"$work/large.json"
  refused 422 Invalid 'Too long: may not be more than 1048576 bytes' POST "$maps" "${json[@]}" --data-binary "@$work/large.json"
  alive
}

# Bodies that are no objects, one a line: content type, what the message says, a printf format of the body.
malformed() {
  local type text format
  while IFS='|' read -r type text format; do
    # shellcheck disable=SC2059
    printf "$format" >"$work/body"
    refused 400 BadRequest "$text" POST "$1" -H "Content-Type: application/$type" --data-binary "@$work/body" || return 1
  done
}

step_malformed_bodies_are_refused() {
  malformed "$maps" <<'BODIES'
json|couldn't get version/kind; json parse error|{"kind":
json|couldn't get version/kind; json parse error|
json|couldn't get version/kind; json parse error|\x00\x01\x02
json|json: cannot unmarshal string into Go value of type|"text"
json|cannot be handled as a ConfigMap|{"apiVersion":"v1","kind":"ConfigMap","metadata":[]}
json|cannot be handled as a ConfigMap|{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","generation":1e400}}
json|cannot be handled as a ConfigMap|{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","generation":99999999999999999999}}
json|cannot be handled as a ConfigMap|{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","generation":1.5}}
json|cannot be handled as a ConfigMap|{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}
json|does not match the namespace|{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"default"}}
json|no kind "Nothing" is registered|{"apiVersion":"v1","kind":"Nothing","metadata":{"name":"x"}}
yaml|yaml|kind: [\n
yaml|yaml|kind: a: b\n
yaml|yaml|a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n
vnd.kubernetes.protobuf||k8s
vnd.kubernetes.protobuf||k8s\x00\x0a\xff\xff\xff\xff\x0f
vnd.kubernetes.protobuf||k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x05\x0a\x0a\x0a
vnd.kubernetes.protobuf||k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0b\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01
vnd.kubernetes.protobuf||{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}
BODIES
  local of
  for of in '[ ]' '{"a": }'; do
    py deep "${of% *}" "${of#* }" 200000 >"$work/body"
    refused 400 BadRequest '' POST "$maps" "${json[@]}" --data-binary "@$work/body"
    refused 400 BadRequest '' POST "$maps" "${yaml[@]}" --data-binary "@$work/body"
  done
  # A schema may hold schemas, in JSON and in protobuf.
  py deep '{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"a.b.c"},"spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":' \
    '}}]}}' 1 '{"items":' '}' 50000 >"$work/body"
  refused 400 BadRequest '' POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions "${json[@]}" --data-binary "@$work/body"
  # As deep as is taken.
  py deep proto 100 >"$work/body"
  refused 422 Invalid '' POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions "${proto[@]}" --data-binary "@$work/body"
  local levels
  for levels in 200 50000; do
    py deep proto $levels >"$work/body"
    refused 400 BadRequest '' POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions "${proto[@]}" --data-binary "@$work/body"
  done
  # Go's JSON reads broken UTF-8 as U+FFFD; whatever becomes of it, what is stored can be read by everybody.
  printf '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"utf"},"data":{"a":"\xff\xfe\xc3"}}' >"$work/body"
  http 201 POST "$maps" "${json[@]}" --data-binary "@$work/body"
  k -n faults get cm utf -o json | jq -e '.data.a == "\ufffd\ufffd\ufffd"'
  printf 'k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x0f\x0a\x04\x0a\x02pu\x12\x07\x0a\x01a\x12\x02\xff\xfe' >"$work/body"
  http 201 POST "$maps" "${proto[@]}" --data-binary "@$work/body"
  k -n faults get cm pu -o json | jq -e '.data.a == "\ufffd\ufffd"'
  local type
  for type in merge-patch+json strategic-merge-patch+json json-patch+json apply-patch+yaml; do
    refused 400 BadRequest '' PATCH "$maps/utf?fieldManager=a" -H "Content-Type: application/$type" -d '{"data":'
  done
  refused 422 Invalid 'the server rejected our request due to an error in our request' PATCH "$maps/utf" -H 'Content-Type: application/json-patch+json' -d '[{"op":"remove","path":"/data/nothing"}]'
  alive
}

step_wrong_media_types_are_refused() {
  refused 415 UnsupportedMediaType 'the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf' \
    POST "$maps" -H 'Content-Type: text/plain' -d '{}'
  refused 415 UnsupportedMediaType '' PATCH "$maps/utf" "${json[@]}" -d '{}'
  refused 406 NotAcceptable 'application/vnd.kubernetes.protobuf' GET "$maps" -H 'Accept: text/csv'
  refused 406 NotAcceptable '' GET "$maps" -H 'Accept: application/json;as=Sheet;g=meta.k8s.io;v=v1'
}

step_stale_versions_conflict() {
  k -n faults create configmap stale --from-literal=a=1
  k -n faults get cm stale -o json >"$work/old.json"
  k -n faults patch cm stale -p '{"data":{"a":"2"}}'
  local said='Operation cannot be fulfilled on configmaps "stale": the object has been modified; please apply your changes to the latest version and try again'
  refused 409 Conflict "$said" PUT "$maps/stale" "${json[@]}" --data-binary "@$work/old.json"
  refused 409 Conflict "$said" PATCH "$maps/stale" -H 'Content-Type: application/merge-patch+json' -d '{"metadata":{"resourceVersion":"1"}}'
  refused 409 Conflict 'the UID in the precondition (0) does not match the UID in record (' DELETE "$maps/stale" "${json[@]}" -d '{"preconditions":{"uid":"0"}}'
  refused 409 Conflict 'the ResourceVersion in the precondition (1) does not match the ResourceVersion in record (' DELETE "$maps/stale" "${json[@]}" -d '{"preconditions":{"resourceVersion":"1"}}'
  refused 409 AlreadyExists 'configmaps "stale" already exists' POST "$maps" "${json[@]}" -d '{"metadata":{"name":"stale"}}'
  if k replace -f "$work/old.json" 2>"$work/out"; then return 1; fi
  has "Error from server (Conflict)" "$work/out"
  is 2 k -n faults get cm stale -o 'jsonpath={.data.a}'
}

step_garbled_questions_are_refused() {
  local path
  for path in continue=nothing continue=e30 continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8uLi9hIn0; do
    refused 400 BadRequest 'continue key is not valid' GET "$maps?limit=1&$path"
  done
  refused 400 BadRequest 'unable to parse requirement' GET "$maps?labelSelector=a%20in%20(b"
  refused 400 BadRequest 'unable to parse requirement' GET "$maps?labelSelector=-a-"
  refused 400 BadRequest '"nothing" is not a known field selector: only "metadata.name", "metadata.namespace"' GET "$maps?fieldSelector=nothing%3D1"
  refused 400 BadRequest 'field label not supported: nothing' GET "/api/v1/pods?fieldSelector=nothing%3D1"
  refused 400 BadRequest 'invalid selector' GET "$maps?fieldSelector=nothing"
  refused 400 BadRequest '' GET "$maps?limit=many"
  refused 400 BadRequest '' GET "$maps?watch=1&timeoutSeconds=soon"
  refused 400 BadRequest 'invalid resource version: resourceVersion: Invalid value: "abc"' GET "$maps?resourceVersion=abc"
  refused 422 Invalid 'resourceVersionMatch is forbidden unless resourceVersion is provided' GET "$maps?resourceVersionMatch=Exact"
  refused 422 Invalid 'Unsupported value: "Perhaps"' POST "$maps?fieldValidation=Perhaps" "${json[@]}" -d '{}'
  refused 422 Invalid 'dryRun: Unsupported value: ["Some"]: supported values: "All"' POST "$maps?dryRun=Some" "${json[@]}" -d '{}'
  refused 504 Timeout 'Too large resource version: 99999999' GET "$maps?resourceVersion=99999999"
}

step_unknown_paths_and_verbs_are_refused() {
  local no='the server could not find the requested resource' not='the server does not allow this method on the requested resource'
  http 404 GET /apis/nothing.example/v1/things
  has '404 page not found' "$work/answer"
  http 404 GET /nothing
  refused 404 NotFound "$no" GET /api/v1/nothings
  refused 404 NotFound "$no" GET /api/v1/namespaces/faults/nothings/a
  refused 404 NotFound "$no" GET /apis/apps/v1/namespaces/faults/configmaps
  refused 404 NotFound "$no" GET "$deployments/warned/nothing"
  refused 404 NotFound 'configmaps "nothing" not found' GET "$maps/nothing"
  refused 404 NotFound 'namespaces "nowhere" not found' POST /api/v1/namespaces/nowhere/configmaps "${json[@]}" -d '{"metadata":{"name":"a"}}'
  refused 405 MethodNotAllowed "$not" PUT "$maps"
  refused 405 MethodNotAllowed "$not" POST "$maps/stale" "${json[@]}" -d '{}'
  refused 405 MethodNotAllowed "$not" POST /api/v1/configmaps "${json[@]}" -d '{"metadata":{"name":"a"}}'
  refused 405 MethodNotAllowed "$not" DELETE "$deployments/warned/scale"
  refused 405 MethodNotAllowed "$not" POST /api/v1/componentstatuses "${json[@]}" -d '{}'
  fails k get nothings 2>"$work/out"
  has "error: the server doesn't have a resource type \"nothings\"" "$work/out"
}

step_wrong_credentials_are_refused() {
  k -n faults create serviceaccount teller
  local good kinds of
  good=$(k -n faults create token teller)
  token=$good refused 403 Forbidden 'User "system:serviceaccount:faults:teller" cannot list resource "configmaps" in API group "" in the namespace "faults"' GET "$maps"
  # Changed, signed by somebody else or by nobody, over, not begun, for others, of another issuer, garbled.
  openssl ecparam -name prime256v1 -genkey -noout -out "$work/other.key"
  kinds=(changed foreign none expired early audience issuer)
  for of in "${kinds[@]}"; do
    token=$(python3 "$here/tests/faults/forge.py" "$of" "$good" "$work/server/server/tls/service.key" "$work/other.key")
    refused 401 Unauthorized Unauthorized GET "$maps"
  done
  for token in x a.b.c "$good." "${good%.*}"; do refused 401 Unauthorized Unauthorized GET "$maps"; done
  # The forger's own tools make a good one as well: what was refused was refused for its fault.
  token=$(python3 "$here/tests/faults/forge.py" good "$good" "$work/server/server/tls/service.key" "$work/other.key")
  refused 403 Forbidden teller GET "$maps"
  token=
  k -n faults delete serviceaccount teller
  token=$good refused 401 Unauthorized Unauthorized GET "$maps"
  # Certificates of an authority that only has our one's name, and of one that has not.
  local name
  for name in sampan-client-ca elsewhere; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$name" -keyout "$work/f.key" -out "$work/f.crt"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj '/O=system:masters/CN=system:admin' -keyout "$work/forged.key" -out "$work/forged.csr"
    openssl x509 -req -in "$work/forged.csr" -CA "$work/f.crt" -CAkey "$work/f.key" -CAcreateserial -days 1 -extfile <(echo extendedKeyUsage=clientAuth) -out "$work/forged.crt"
    is 401 at "$server" curl -sS -o "$work/answer" -w '%{http_code}' --cacert "$work/admin.ca" --cert "$work/forged.crt" --key "$work/forged.key" "https://127.0.0.1:6443$maps"
  done
  # Nobody reads names and passwords, as upstream does: who sends them is anonymous.
  is 403 at "$server" curl -sS -o "$work/answer" -w '%{http_code}' --cacert "$work/admin.ca" -u admin:admin "https://127.0.0.1:6443$maps"
}

step_denials_say_who_what_and_where() {
  local as=(-H 'Impersonate-User: jane') jane='User "jane" cannot'
  refused 403 Forbidden "configmaps is forbidden: $jane list resource \"configmaps\" in API group \"\" in the namespace \"faults\"" GET "$maps" "${as[@]}"
  refused 403 Forbidden "deployments.apps \"warned\" is forbidden: $jane get resource \"deployments\" in API group \"apps\" in the namespace \"faults\"" GET "$deployments/warned" "${as[@]}"
  refused 403 Forbidden "nodes is forbidden: $jane list resource \"nodes\" in API group \"\" at the cluster scope" GET /api/v1/nodes "${as[@]}"
  refused 403 Forbidden "pods \"p\" is forbidden: $jane create resource \"pods/exec\" in API group \"\" in the namespace \"faults\"" POST "/api/v1/namespaces/faults/pods/p/exec?command=ls" "${as[@]}"
  refused 403 Forbidden "forbidden: $jane get path \"/metrics\"" GET /metrics "${as[@]}"
  refused 403 Forbidden 'User "system:anonymous" cannot get path "/metrics"' GET /metrics -H 'Impersonate-User: system:anonymous'
  token=$(k -n faults create token default)
  refused 403 Forbidden 'User "system:serviceaccount:faults:default" cannot impersonate-on:user-info:list resource "nodes" in API group "" at the cluster scope' GET /api/v1/nodes "${as[@]}"
  token=
  # Nobody gives more than they have.
  k create clusterrole smith --verb=create,get --resource=roles.rbac.authorization.k8s.io
  k create clusterrolebinding smith --clusterrole=smith --user=jane
  refused 403 Forbidden 'is attempting to grant RBAC permissions not currently held' POST /apis/rbac.authorization.k8s.io/v1/namespaces/faults/roles "${as[@]}" "${json[@]}" \
    -d '{"metadata":{"name":"all"},"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}'
}

# ---- the process

# Who runs the program in the second node's place: root, unless a step says otherwise.
runs=()
# ends CODE TEXT sampan's arguments: the program ends with CODE, one line on standard error that holds TEXT, and no more.
ends() {
  local code=$1 text=$2 status=0; shift 2
  at "$agent" timeout 60 "${runs[@]}" "$sampan" "$@" >"$work/ends.out" 2>"$work/ends" || status=$?
  [ $status = "$code" ] || { echo "exit code $status, not $code: $*"; cat "$work/ends"; return 1; }
  has "$text" "$work/ends" || return 1
  [ "$code" != 1 ] || is 1 wc -l <"$work/ends" || { cat "$work/ends"; return 1; }
}
# A server in the second node's place, that only says why it ends.
served() { ends "$1" "$2" server --data-dir "$work/second" --config /dev/null --node-name one --write-kubeconfig "$work/second.yaml" --log error "${@:3}"; }
joined() { ends 1 "$1" agent --data-dir "$work/joined" --config /dev/null --node-name two --log error "${@:2}"; }

step_mistakes_in_flags_and_configuration_are_named() {
  served 2 "unexpected argument '--nothing' found" --nothing
  served 2 "invalid value '99999' for '--https-listen-port" --https-listen-port 99999
  served 2 "invalid value 'here' for '--node-ip" --node-ip here
  served 2 "invalid value 'ether' for '--flannel-backend" --flannel-backend ether
  served 1 '--node-name "Bad_Name" is no name for a node' --node-name Bad_Name
  served 2 "invalid value '5' for '--service-node-port-range <RANGE>': expected FIRST-LAST" --service-node-port-range 5
  served 2 "invalid value '999' for '--write-kubeconfig-mode <MODE>': expected an octal mode" --write-kubeconfig-mode 999
  served 2 "invalid value '10.42' for '--cluster-cidr <CIDR>': expected ADDRESS/BITS" --cluster-cidr 10.42
  served 2 "invalid value '10.42.0.0/33' for '--cluster-cidr" --cluster-cidr 10.42.0.0/33
  served 2 "invalid value 'everything' for '--service-cidr" --service-cidr everything
  served 2 "invalid value 'servicelbb' for '--disable <PART>': known are" --disable servicelbb
  served 2 "invalid value 'nothing=1' for '--kubelet-arg <NAME=VALUE>': known are" --kubelet-arg nothing=1
  served 2 "invalid value 'a=b' for '--node-taint <TAINT>': expected KEY=VALUE:EFFECT" --node-taint a=b
  served 2 "invalid value 'a' for '--node-label <LABEL>': expected KEY=VALUE" --node-label a
  served 2 "invalid value 'a=b=c' for '--log <FILTER>'" --log a=b=c
  served 1 '--node-ip: give at most one address per family' --node-ip 10.0.0.1,10.0.0.2
  served 1 "cannot read the token file /nowhere: No such file" --token-file /nowhere
  : >"$work/empty"
  served 1 "the token file $work/empty is empty" --token-file "$work/empty"
  printf ': [\n' >"$work/config.yaml"
  served 2 "$work/config.yaml: " --config "$work/config.yaml"
  printf 'no-such: 1\nnode-label: {a: b}\nalso-not: 2\n' >"$work/config.yaml"
  served 2 "$work/config.yaml: unknown flag \`also-not\`; unknown flag \`no-such\`; \`node-label\` must be a string, a number, a boolean or a list of them" --config "$work/config.yaml"
  served 2 'cannot read /nowhere: No such file' --config /nowhere
  ends 2 "unrecognized subcommand 'sevrer'" sevrer
  # Nothing was made for it.
  fails test -e "$work/second/server"
  fails test -e "$work/second.yaml"
  printf 'mirrors: {a: {endpoint: ["ftp://x"]}}\nconfigs: {b: {tls: {key_file: c}}}\n' >"$work/mirrors.yaml"
  served 1 'mirrors.a.endpoint: "ftp://x": its scheme is neither http nor https; configs.b.tls: cert_file and key_file belong together' --private-registry "$work/mirrors.yaml"
}

step_ports_in_use_are_named() {
  local port pid said
  rm -rf "$work/second"
  for port in 6443 10250; do
    at_bg "$agent" python3 -c "import socket, time; held = socket.create_server(('', $port)); time.sleep(600)" >"$work/listener" 2>&1 &
    pid=$!
    within 10 at "$agent" bash -c "exec 3<>/dev/tcp/127.0.0.1/$port"
    said="cannot listen on 0.0.0.0:$port: Address already in use (os error 98) (another program listens there; stop it or choose another port)"
    served 1 "$said"
    kill $pid
    [ $port != 6443 ] || fails test -e "$work/second/server"
  done
}

# Starts a control plane without a node in the second node's place and waits for it: control DATA_DIR [more flags].
control() {
  # One that an earlier step has left there.
  [ ! -e "$work/control.pid" ] || kill -9 "$(cat "$work/control.pid")" 2>/dev/null || true
  mkdir -p "$work/control" && chmod 777 "$work/control"
  at_bg "$agent" "${runs[@]}" "$sampan" server --data-dir "$1" --config /dev/null --node-name two --disable-agent --write-kubeconfig "$work/control/kubeconfig.yaml" \
    --log "${SUITE_LOG:-info}" "${@:2}" >>"$work/log/control" 2>&1 &
  echo $! >"$work/control.pid"
  disown
  within 60 c get --raw /readyz
  keys "$work/control/kubeconfig.yaml" control
}
c() { at "$agent" "$kubectl" --kubeconfig "$work/control/kubeconfig.yaml" "$@"; }
# As `http` and `refused`, of that one.
of_control() { who=control place=$agent "$@"; }
# control_ends SIGNAL: ends it and waits.
control_ends() { kill "-$1" "$(cat "$work/control.pid")"; within 20 fails kill -0 "$(cat "$work/control.pid")" && rm "$work/control.pid"; }

step_databases_that_cannot_be_used_are_named_and_left_alone() {
  local data=$work/second db=$work/second/server/db/state.db
  rm -rf "$data"
  control "$data"
  c create configmap mine
  # A second server on the same data.
  served 1 "$db is in use by another process ($(cat "$work/control.pid"))" --https-listen-port 7443 --disable-agent --tls-san other.example
  c get configmap mine
  control_ends TERM
  cp -a "$data" "$work/good"
  local made
  for made in newer garbage cut holes; do
    rm -rf "$data" && cp -a "$work/good" "$data"
    case $made in
      newer) sqlite3 "$db" 'PRAGMA user_version = 99' ;;
      garbage) head -c 100000 /dev/urandom >"$db" ;;
      cut) truncate -s 50 "$db" ;;
      holes) dd if=/dev/urandom of="$db" bs=1k seek=1 count=30 conv=notrunc status=none ;;
    esac
    find "$data" -type f ! -name '*-lock' ! -name '*-shm' ! -name '*-wal' -exec sha256sum {} + | sort >"$work/before"
    case $made in
      newer) served 1 "$db has schema version 99; this program knows versions up to 1: use a newer program" --disable-agent ;;
      garbage | cut) served 1 "$db is not a database of this program: it does not start like an SQLite database" --disable-agent ;;
      holes) served 1 "of $db: " --disable-agent ;;
    esac
    find "$data" -type f ! -name '*-lock' ! -name '*-shm' ! -name '*-wal' -exec sha256sum {} + | sort >"$work/after"
    diff "$work/before" "$work/after"
  done
  # With its own file back it goes on.
  rm -rf "$data" && mv "$work/good" "$data" && control "$data"
  c get configmap mine
  control_ends TERM
  served 1 "$data/server/token: the token is not the one that this cluster was made with" --disable-agent --token another
}

step_places_that_cannot_be_used_are_named() {
  : >"$work/file"
  served 1 "$work/file" --data-dir "$work/file"
  served 1 '/proc/nowhere' --data-dir /proc/nowhere
  mkdir -p "$work/small"
  mount -t tmpfs -o size=16k faults "$work/small"
  local size
  for size in 16k 60k 120k; do
    mount -o remount,size=$size "$work/small"
    served 1 cannot --data-dir "$work/small"
    grep -qE 'disk is full|No space left on device' "$work/ends" || { echo "$size:"; cat "$work/ends"; return 1; }
  done
  # With room it starts, whatever the first try has left.
  mount -o remount,size=64m "$work/small"
  control "$work/small"
  control_ends TERM
  umount "$work/small"
  # A directory that somebody else made keeps its mode.
  is 777 stat -c %a "$work/control"
  # Without root a node says what it lacks, and a control plane works.
  runs=(setpriv --reuid nobody --regid nogroup --clear-groups)
  install -d -o nobody "$work/nobody"
  served 1 'a node needs root: ' --data-dir "$work/nobody/data"
  control "$work/nobody/data"
  control_ends TERM
  served 1 "cannot make directory $work/server/here: Permission denied" --disable-agent --data-dir "$work/server/here"
}

step_agents_are_told_why_they_may_not_join() {
  local token url=https://10.99.0.1:6443
  token=$("$sampan" token --data-dir "$work/server" --agent)
  joined 'a token is needed: --token, --token-file or SAMPAN_TOKEN' --server $url
  joined 'the token: ' --server $url --token 'K10nonsense::server:x'
  joined 'cannot read the token file /nowhere' --server $url --token-file /nowhere
  : >"$work/empty"
  joined "the token file $work/empty is empty" --server $url --token-file "$work/empty"
  joined "the server at $url does not let this node join: " --server $url --token "${token%?}$(tr '0-9a-f' '1-9a-f0' <<<"${token: -1}")"
  # The right secret, but the hash of another CA: the secret goes to nobody.
  joined 'the token: ' --server $url --token "K10$(printf '%064d' 0)${token#K10????????????????????????????????????????????????????????????????}"
  has CA "$work/ends"
  joined 'ftp://x' --server ftp://x --token "$token"
  joined '--node-name "Bad_Name" is no name for a node' --server $url --token "$token" --node-name Bad_Name
  # No other machine becomes the server's own node.
  joined "the server's own node has this name" --server $url --token "$token" --node-name one
  fails k get node two 2>"$work/out"
  has NotFound "$work/out"
}

# ---- the disk

step_a_disk_that_fills_refuses_writes_and_nothing_else() {
  mkdir -p "$work/disk"
  mount -t tmpfs -o size=64m faults "$work/disk"
  control "$work/disk"
  c create configmap before --from-literal=a=1
  dd if=/dev/zero of="$work/disk/filler" bs=64k status=none 2>"$work/out" || has 'No space left' "$work/out"
  # What is allocated already may still be written; then it is over.
  head -c 60000 /dev/zero | tr '\0' a >"$work/value"
  local n status=0
  for n in $(seq 300); do c create configmap "filled-$n" --from-file="$work/value" >"$work/out" 2>&1 || { status=1; break; }; done
  is 1 echo $status
  has 'the datastore refuses writes: database or disk is full' "$work/out"
  of_control refused 503 ServiceUnavailable 'the datastore refuses writes: ' POST /api/v1/namespaces/default/configmaps "${json[@]}" -d "{\"metadata\":{\"name\":\"a\"},\"data\":{\"a\":\"$(<"$work/value")\"}}"
  # Reads, watches and deletions go on, and the process stays.
  is 1 c get configmap before -o 'jsonpath={.data.a}'
  c get --raw /readyz | has ok
  c get --raw '/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1&resourceVersion=0' | has '"name":"before"'
  c delete configmap before
  fails c get configmap before 2>"$work/out"
  has NotFound "$work/out"
  kill -0 "$(cat "$work/control.pid")"
  rm "$work/disk/filler"
  within 30 c create configmap after --from-literal=a=1
  # What was acknowledged is there after a crash, what was refused is not.
  control_ends KILL
  control "$work/disk"
  # A full disk at the start is no worse: the reserve is for that.
  control_ends TERM
  dd if=/dev/zero of="$work/disk/filler" bs=4k status=none 2>"$work/dd" || has 'No space left' "$work/dd"
  control "$work/disk"
  c delete configmap after
  rm "$work/disk/filler"
  within 30 c create configmap again
  c get configmap again
  fails c get configmap before "filled-$n" 2>"$work/out"
  is $((n - 1)) echo "$(c get configmaps -o name | grep -c filled-)"
  control_ends TERM
  umount "$work/disk"
}

# ---- images

images() { at "$server" "$sampan" images --data-dir "$work/server" "$@"; }

step_broken_archives_are_refused() {
  "$here/examples/hello/image.sh" "$work/hello.tar"
  images import "$work/hello.tar" | has 'example/hello:1'
  local file text outside
  mkdir -p "$work/archives"
  py archives "$work/hello.tar" "$work/archives"
  outside=$(find "$work/server/agent" -maxdepth 2 | sort)
  while IFS='|' read -r file text; do
    fails images import "$work/archives/$file" >"$work/out" 2>&1 || { cat "$work/out"; return 1; }
    grep -qE -- "^sampan: .*$text" "$work/out" || { echo "$file: not '$text'"; cat "$work/out"; return 1; }
    is 1 grep -c '^sampan: ' "$work/out"
  done <<'ARCHIVES'
truncated.tar|
empty.tar|
text.tar|
noise.tar|
no-manifest.tar|
missing-layer.tar|
garbled-manifest.tar|
wrong-digest.tar|digest is
cut.tar.gz|
parent.tar|\.\.
bomb.tar|limit
large.tar|limit
elsewhere.tar|no image for linux/.*offers linux/s390x
nowhere.tar|No such file
ARCHIVES
  # Links that lead out are the image's own affair, and lead nowhere from where it is unpacked.
  for file in absolute-link hard-link-up through-link; do
    images import "$work/archives/$file.tar" >"$work/out" 2>&1 || has 'sampan: ' "$work/out"
    echo "$file: $(tail -n 1 "$work/out")"
  done
  is '' find "$work/archives/outside" /etc "$work/server/server" -name escaped
  fails test -e /escaped
  # Dropped into the directory, a broken one is named in the log and the next one taken.
  cp "$work/archives/parent.tar" "$work/server/images/a.tar"
  cp "$work/archives/hard-link.tar" "$work/server/images/b.tar"
  within 20 has 'climbs out' "$work/log/server"
  within 20 bash -c "nsenter --net=/run/netns/$server $sampan images --data-dir $work/server ls | grep -q example/hard-link"
  rm "$work/server/images"/{a,b}.tar
  fails grep -q escaped /etc/passwd
  is "$outside" echo "$(find "$work/server/agent" -maxdepth 2 | sort)"
  images ls | has example/hello
  alive
}

pod() { printf 'apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: faults}\nspec: {terminationGracePeriodSeconds: 0, containers: [{name: a, image: "%s"}], %s}\n' "$1" "$2" "${3:-}"; }
# waits POD REASON TEXT: its container waits with this reason and a message that holds the text.
waiting() { k -n faults get pod "$1" -o json | jq -e --arg reason "$2" --arg text "$3" '.status.containerStatuses[0].state.waiting | .reason == $reason and (.message | contains($text))'; }
either() { waiting "$1" "$2" "$4" || waiting "$1" "$3" "$4"; }
running() { is Running k -n faults get pod "$1" -o 'jsonpath={.status.phase}'; }
shown() { k -n faults get pod "$1" -o 'jsonpath={.status.containerStatuses[0].state}'; k -n faults get events --field-selector "involvedObject.name=$1"; }

# What registries do to pods: the behaviour, what the pod's status says of it.
lies() {
  cat <<'LIES'
denied|denies access (401)
forbidden|denies access (403)
missing|not found at http://10.99.0.1:5000
limited|429
broken|500
garbled-manifest|manifest
lying-manifest|digest is
lying-layer|digest is
cut-layer|
foreign|no image for linux/
schema1|schema 1
LIES
}

step_registries_that_fail_or_lie_are_named_and_pods_recover() {
  k wait --for=condition=Ready node/one --timeout=60s
  at_bg "$server" python3 "$here/tests/faults/registry.py" 10.99.0.1:5000 "$work/hello.tar" "$work/honest" >"$work/log/registry" 2>&1 &
  echo $! >"$work/registry.pid"
  disown
  within 10 at "$server" curl -sS http://10.99.0.1:5000/v2/
  local how text
  for how in stalled $(lies | cut -d'|' -f1); do pod "$how" "10.99.0.1:5000/$how:1" | k apply -f -; done
  pod closed 127.0.0.1:5001/hello:1 | k apply -f -
  lies | while IFS='|' read -r how text; do
    within 60 either "$how" ErrImagePull ImagePullBackOff "$text" || within 5 either "$how" RegistryUnavailable ImagePullBackOff "$text" || { shown "$how"; exit 1; }
  done
  within 60 either closed RegistryUnavailable ImagePullBackOff 'Connection refused' || { shown closed; return 1; }
  # What the image offers, and what this machine is.
  waiting foreign ErrImagePull "10.99.0.1:5000/foreign:1 offers linux/s390x" || waiting foreign ImagePullBackOff "10.99.0.1:5000/foreign:1 offers linux/s390x"
  k -n faults get events --field-selector involvedObject.name=missing | has 'Failed to pull image "10.99.0.1:5000/missing:1"'
  # One that says nothing keeps nobody else waiting.
  pod honest mirrored.example/honest:1 | k apply -f -
  within 60 running honest || { shown honest; return 1; }
  within 5 waiting stalled ContainerCreating '' || is ContainerCreating k -n faults get pod stalled -o 'jsonpath={.status.containerStatuses[0].state.waiting.reason}'
  fails images pull --private-registry "$work/registries.yaml" 10.99.0.1:5000/missing:1 2>"$work/out"
  has 'not found at http://10.99.0.1:5000' "$work/out"
  # The registry comes to its senses: everybody's pods run without anybody's doing.
  : >"$work/honest"
  for how in stalled $(lies | cut -d'|' -f1); do within 120 running "$how" || { shown "$how"; return 1; }; done
  k -n faults delete pods --all --now --timeout=60s
}

step_private_registries_are_used_with_credentials() {
  mkdir -p "$work/private"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=faults-ca -keyout "$work/private/ca.key" -out "$work/private/ca.crt"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=registry -keyout "$work/private/tls.key" -out "$work/private/tls.csr"
  openssl x509 -req -in "$work/private/tls.csr" -CA "$work/private/ca.crt" -CAkey "$work/private/ca.key" -CAcreateserial -days 1 \
    -extfile <(echo subjectAltName=IP:127.0.0.1) -out "$work/private/tls.crt"
  htpasswd -Bbn jane sesame >"$work/private/users"
  cat >"$work/private/config.yaml" <<CONFIG
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $work/private/data}}
http: {addr: 0.0.0.0:5443, tls: {certificate: $work/private/tls.crt, key: $work/private/tls.key}}
auth: {htpasswd: {realm: faults, path: $work/private/users}}
CONFIG
  at_bg "$server" docker-registry serve "$work/private/config.yaml" >"$work/log/docker-registry" 2>&1 &
  echo $! >"$work/docker-registry.pid"
  disown
  within 10 at "$server" curl -sS --cacert "$work/private/ca.crt" https://127.0.0.1:5443/v2/
  at "$server" skopeo copy --quiet --dest-tls-verify=false --dest-creds jane:sesame "docker-archive:$work/hello.tar" docker://127.0.0.1:5443/secret/hello:1
  pod stranger 127.0.0.1:5443/secret/hello:1 | k apply -f -
  within 30 either stranger ErrImagePull ImagePullBackOff 'denies access (401)' || { shown stranger; return 1; }
  k -n faults create secret docker-registry wrong --docker-server=127.0.0.1:5443 --docker-username=jane --docker-password=barley
  k -n faults create secret docker-registry right --docker-server=127.0.0.1:5443 --docker-username=jane --docker-password=sesame
  pod wrong 127.0.0.1:5443/secret/hello:1 'imagePullSecrets: [{name: wrong}]' | k apply -f -
  within 30 either wrong ErrImagePull ImagePullBackOff 'denies access (401)' || { shown wrong; return 1; }
  pod right 127.0.0.1:5443/secret/hello:1 'imagePullSecrets: [{name: right}]' | k apply -f -
  within 60 running right || { shown right; return 1; }
  fails images pull 127.0.0.1:5443/secret/hello:1 2>"$work/out"
  has 'denies access (401)' "$work/out"
  images pull --credentials jane:sesame 127.0.0.1:5443/secret/hello:1
  # The account's secrets are its pods'; a CA that is not named is not trusted.
  k -n faults patch serviceaccount default -p '{"imagePullSecrets":[{"name":"right"}]}'
  pod account 127.0.0.1:5443/secret/hello:1 | k apply -f -
  within 60 running account || { shown account; return 1; }
  pod distrust 10.99.0.1:5443/secret/hello:1 | k apply -f -
  within 30 either distrust RegistryUnavailable ImagePullBackOff 'certificate' || { shown distrust; return 1; }
  k -n faults delete pods --all --now --timeout=60s
}

# ---- crashes

step_five_kills_lose_nothing() {
  local data=$work/crashes round pid
  control "$data" && control_ends KILL
  for round in 1 2 3 4 5; do
    control "$data"
    at "$agent" python3 "$here/tests/faults/writer.py" "$work/control/kubeconfig.yaml" "$work/acknowledged" "$work/seen" $round >"$work/log/writer" 2>&1 &
    pid=$!
    within 60 grep -q "^round $round" "$work/acknowledged"
    sleep "0.$((RANDOM % 900 + 100))"
    # The last one ends as administrators end it: what is in flight is answered or not, but not lost.
    control_ends $([ $round = 5 ] && echo TERM || echo KILL)
    wait $pid || { cat "$work/log/writer"; return 1; }
  done
  control "$data"
  at "$agent" python3 "$here/tests/faults/writer.py" "$work/control/kubeconfig.yaml" "$work/acknowledged" "$work/seen" check
  control_ends TERM
}

step_a_list_that_outlived_its_history_is_told_so() {
  local data=$work/crashes
  control "$data"
  local list newest more
  list=$(c get --raw '/api/v1/namespaces/default/configmaps?limit=1')
  more=$(jq -r .metadata.continue <<<"$list") newest=$(jq -r .metadata.resourceVersion <<<"$list")
  control_ends TERM
  # As if an hour had passed.
  sqlite3 "$data/server/db/state.db" "UPDATE meta SET compacted = $newest + 1"
  control "$data"
  fails c get --raw "/api/v1/namespaces/default/configmaps?limit=1&continue=$more" 2>"$work/out"
  has 'The provided continue parameter is too old to display a consistent list result.' "$work/out"
  local maps='/api/v1/namespaces/default/configmaps'
  of_control refused 410 Expired 'The provided continue parameter is too old' GET "$maps?limit=1&continue=$more"
  more=$(jq -r .metadata.continue "$work/answer")
  of_control http 200 GET "$maps?limit=1&continue=$more"
  jq -e '.kind == "ConfigMapList" and (.items | length) == 1' "$work/answer"
  # A watch from back then as well.
  of_control http 200 GET "$maps?watch=1&timeoutSeconds=2&resourceVersion=1"
  jq -e '.type == "ERROR" and .object.code == 410 and .object.reason == "Expired"' "$work/answer"
  control_ends TERM
}

step_a_server_that_moves_takes_its_node_along() {
  # Not example/hello: a secret has pulled the same image elsewhere, and who has none must ask a registry.
  pod stays mirrored.example/honest:1 | k apply -f -
  within 60 running stays
  local before
  before=$(k -n faults get pod stays -o 'jsonpath={.status.containerStatuses[0].containerID}')
  kill "$(cat "$work/server.pid")"
  within 20 fails kill -0 "$(cat "$work/server.pid")"
  ip -n "$server" addr add 10.99.0.77/24 dev eth0
  node_args+=(--node-ip 10.99.0.77)
  start_server
  within 60 k get --raw /readyz
  within 30 is 10.99.0.77 k get node one -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}'
  within 30 is 10.99.0.77 k get endpointslice kubernetes -o 'jsonpath={.endpoints[0].addresses[0]}'
  curl_ --cacert "$work/admin.ca" --cert "$work/admin.crt" --key "$work/admin.key" https://10.99.0.77:6443/readyz | has ok
  within 30 is 10.99.0.77 k -n faults get pod stays -o 'jsonpath={.status.hostIP}'
  is "$before" k -n faults get pod stays -o 'jsonpath={.status.containerStatuses[0].containerID}'
  within 10 k -n faults exec stays -- true
  k -n faults delete pod stays --now --timeout=60s
}

step_silent_connections_were_cut() {
  within 180 has 'all were cut' "$work/silent" || { cat "$work/silent" "$work/log/silent"; return 1; }
  has 'the slow body was answered HTTP/1.1 504' "$work/silent"
}

step_nothing_has_panicked() {
  fails grep -rn -e 'panicked at' -e 'stack backtrace' "$work/log/server" "$work/log/control"
}

cat >"$work/registries.yaml" <<REGISTRIES
mirrors:
  mirrored.example: {endpoint: ["http://10.99.0.1:5000"]}
  10.99.0.1:5000: {endpoint: ["http://10.99.0.1:5000"]}
configs:
  127.0.0.1:5443: {tls: {ca_file: $work/private/ca.crt}}
REGISTRIES
# What systemd gives a service that asks for nothing: 1,024 descriptors until it takes more.
ulimit -Sn 1024
node_args=(--private-registry "$work/registries.yaml")
network
start_server
walk_all
