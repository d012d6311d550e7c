#!/bin/bash
# Who may do what, and what is told of it, on a server as an operator of a company sets it up: users of an OIDC issuer, of a
# file and of a webhook, another webhook that decides, an audit log, secrets that are stored sealed. Only the API and the
# controllers run. access/outsiders.py is whom the server asks; world.sh says what the suite stands on.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
. "$here/tests/world.sh"
out=$work/outsiders
outsider() { at "$server" python3 "$here/tests/access/outsiders.py" "$out" 8443 "$@"; }
# as TOKEN ARGUMENTS: kubectl with a token only.
as() {
  local token=$1; shift
  at "$server" "$kubectl" --kubeconfig /dev/null --server https://127.0.0.1:6443 --certificate-authority "$work/ca" --token "$token" "$@"
}
# In a minute without requests; this only gets smaller. A quiet machine counts 4, one that is busy with other suites some 80.
WAKES=${WAKES:-300}

step_those_whom_it_asks_stand_ready() {
  mkdir -p "$out"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=outsiders -addext 'subjectAltName=IP:127.0.0.1' \
    -keyout "$out/tls.key" -out "$out/tls.crt" 2>/dev/null
  openssl genrsa -out "$out/sign.key" 2048 2>/dev/null
  at_bg "$server" python3 "$here/tests/access/outsiders.py" "$out" 8443 >"$work/log/outsiders" 2>&1 &
  echo $! >"$work/outsiders.pid"
  disown
  within 20 at "$server" curl -sf --cacert "$out/tls.crt" -o /dev/null https://127.0.0.1:8443/keys
}

step_a_server_is_set_up() {
  echo 'from-file,file:ann,1,"readers"' >"$out/tokens.csv"
  cat >"$out/authentication.yaml" <<EOF
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous: {enabled: true, conditions: [{path: /livez}, {path: /readyz}]}
jwt:
- issuer: {url: "https://127.0.0.1:8443", audiences: [sampan], certificateAuthority: $(jq -Rs . "$out/tls.crt")}
  claimMappings:
    username: {expression: '"oidc:" + claims.sub'}
    groups: {expression: 'claims.?groups.orValue([])'}
  claimValidationRules: [{expression: 'claims.sub != "mallory"', message: mallory has left}]
EOF
  for hook in authorize authenticate; do
    cat >"$out/$hook.kubeconfig" <<EOF
apiVersion: v1
kind: Config
clusters: [{name: it, cluster: {server: "https://127.0.0.1:8443/$hook", certificate-authority: $out/tls.crt}}]
users: [{name: me, user: {}}]
contexts: [{name: it, context: {cluster: it, user: me}}]
current-context: it
EOF
  done
  cat >"$out/authorization.yaml" <<EOF
apiVersion: apiserver.config.k8s.io/v1
kind: AuthorizationConfiguration
authorizers:
- type: Webhook
  name: company
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: NoOpinion
    authorizedTTL: 30s
    unauthorizedTTL: 30s
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: $out/authorize.kubeconfig}
    matchConditions: [{expression: "!request.user.startsWith('system:')"}]
- {type: Node, name: node}
- {type: RBAC, name: rbac}
EOF
  cat >"$out/audit.yaml" <<EOF
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, users: ["oidc:jane"]}
- {level: None}
EOF
  node_args=(--disable-agent --secrets-encryption)
  for flag in authentication-config="$out/authentication.yaml" authentication-token-webhook-config-file="$out/authenticate.kubeconfig" \
    token-auth-file="$out/tokens.csv" authorization-config="$out/authorization.yaml" audit-policy-file="$out/audit.yaml" \
    audit-log-path="$work/log/audit"; do
    node_args+=(--kube-apiserver-arg "$flag")
  done
  start_server
  within 60 k get --raw /readyz
  grep certificate-authority-data "$KUBECONFIG" | awk '{print $2}' | base64 -d >"$work/ca"
  k create namespace access
  k -n access create configmap open --from-literal=a=1
  k -n access create configmap forbidden --from-literal=a=1
}

step_everybody_is_who_the_outsiders_say() {
  outsider --token '{"sub": "jane", "groups": ["readers"]}' >"$out/jane"
  is oidc:jane as "$(cat "$out/jane")" auth whoami -o 'jsonpath={.status.userInfo.username}'
  is file:ann as from-file auth whoami -o 'jsonpath={.status.userInfo.username}'
  is hook:joe as hooked auth whoami -o 'jsonpath={.status.userInfo.username}'
}

step_tokens_that_nobody_vouches_for_are_refused() {
  local bad
  for bad in '{"sub": "mallory"}' '{"sub": "jane", "aud": "others"}' '{"sub": "jane", "exp": 1}' '{"sub": "jane", "iss": "https://127.0.0.1:9"}'; do
    fails as "$(outsider --token "$bad")" get --raw /version 2>"$work/out"
    has 'Unauthorized' "$work/out"
  done
  fails as "$(cat "$out/jane")x" get --raw /version 2>"$work/out"
  has 'Unauthorized' "$work/out"
  is 401 at "$server" curl -sk -o /dev/null -w '%{http_code}' https://127.0.0.1:6443/version
  is 200 at "$server" curl -sk -o /dev/null -w '%{http_code}' https://127.0.0.1:6443/livez
}

step_the_webhook_decides_before_rbac_does() {
  for token in "$(cat "$out/jane")" from-file hooked; do
    is 1 as "$token" -n access get configmap open -o 'jsonpath={.data.a}'
    fails as "$token" -n access delete configmap open 2>"$work/out"
    has 'cannot delete resource "configmaps"' "$work/out"
    fails as "$token" -n access get configmap forbidden 2>"$work/out"
    has 'nobody may' "$work/out"
  done
  k create clusterrole editor --verb=create,delete,get --resource=configmaps,secrets
  k create clusterrolebinding editor --clusterrole=editor --user=oidc:jane
  as "$(cat "$out/jane")" -n access create configmap made --from-literal=b=2
  # The administrator is no user of the company's: the webhook is not asked.
  is 1 k -n access get configmap forbidden -o 'jsonpath={.data.a}'
}

step_certificates_are_signed_once_they_are_approved() {
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=eve/O=readers -keyout "$out/eve.key" -out "$out/eve.csr" 2>/dev/null
  cat >"$out/csr.yaml" <<EOF
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: eve}
spec: {signerName: kubernetes.io/kube-apiserver-client, usages: [client auth], expirationSeconds: 3600, request: $(base64 -w0 "$out/eve.csr")}
EOF
  k create -f "$out/csr.yaml"
  k certificate approve eve
  issued() { k get csr eve -o 'jsonpath={.status.certificate}' | base64 -d | grep -q BEGIN; }
  within 20 issued
  k get csr eve -o 'jsonpath={.status.certificate}' | base64 -d >"$out/eve.crt"
  is eve at "$server" "$kubectl" --kubeconfig /dev/null --server https://127.0.0.1:6443 --certificate-authority "$work/ca" \
    --client-certificate "$out/eve.crt" --client-key "$out/eve.key" auth whoami -o 'jsonpath={.status.userInfo.username}'
}

step_the_audit_log_says_what_its_policy_wants() {
  as "$(cat "$out/jane")" -n access create secret generic told --from-literal=word=sesame
  has_event() { jq -se "any(.[]; $1)" "$work/log/audit" >"$work/jq"; }
  within 10 has_event '.user.username == "oidc:jane" and .verb == "create" and .objectRef.resource == "secrets" and .level == "Metadata" and .requestObject == null'
  has_event '.objectRef.name == "made" and .requestObject.data.b == "2" and .responseStatus.code == 201 and .annotations["authorization.k8s.io/decision"] == "allow"'
  fails has_event '.user.username == "file:ann"'
  fails grep -q sesame "$work/log/audit"
  is 600 stat -c %a "$work/log/audit"
}

step_secrets_are_sealed_on_disk_and_stay_readable() {
  "$sampan" secrets-encrypt status --data-dir "$work/server" >"$work/out"
  has Enabled "$work/out"
  sleep 1
  cat "$work"/server/server/db/state.db* >"$work/db"
  grep -aq editor "$work/db"
  fails grep -aq c2VzYW1l "$work/db"
  fails grep -aq sesame "$work/db"
  kill -9 "$(cat "$work/server.pid")"
  start_server
  within 60 k get --raw /readyz
  is sesame base64 -d <(k -n access get secret told -o 'jsonpath={.data.word}')
}

step_a_server_that_nobody_asks_sleeps() {
  local pid wakes written
  pid=$(cat "$work/server.pid")
  wakes() { cat /proc/"$pid"/task/*/status | awk '/^voluntary_ctxt/{n += $2} END{print n}'; }
  written() { awk '/^wchar/{print $2}' /proc/"$pid"/io; }
  # What a start leaves to be done is done by then.
  sleep 45
  wakes=$(wakes) written=$(written)
  sleep 60
  wakes=$(($(wakes) - wakes)) written=$(($(written) - written))
  echo "$wakes wakes, $written bytes written"
  # Less than a page of the store.
  [ "$wakes" -le "$WAKES" ] && [ "$written" -lt 4096 ]
}

step_nothing_has_panicked() {
  kill -0 "$(cat "$work/server.pid")"
  fails grep panicked "$work/log/server"
}

network
walk_all
