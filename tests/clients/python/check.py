"""The official Python client at work: JSON over HTTP/1.1, models and plain dictionaries, each answer checked."""

import json, logging, os, subprocess, sys, threading, time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.informer import SharedInformer
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.utils.retry import Backoff, retry_on_conflict

NS = "python"
checks = []


def check(function):
    checks.append(function)
    return function


def equal(got, wanted):
    assert got == wanted, f"{got!r} instead of {wanted!r}"


def refused(code, text, call, *arguments, **named):
    try:
        got = call(*arguments, **named)
    except (ApiException, dynamic.exceptions.DynamicApiError) as error:
        body = error.body.decode() if isinstance(error.body, bytes) else error.body
        status = json.loads(body)
        equal((error.status, status["kind"], status["code"]), (code, "Status", code))
        assert text in status["message"], f"{status['message']!r} does not say {text!r}"
        return status
    raise AssertionError(f"not refused: {got}")


def within(seconds, what, holds):
    end = time.monotonic() + seconds
    while True:
        try:
            if holds():
                return
        except (ApiException, dynamic.exceptions.DynamicApiError):
            pass
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.05)


def gone(read, *arguments):
    try:
        read(*arguments)
    except ApiException as error:
        return error.status == 404
    return False


def kill():
    subprocess.run([os.environ["CLIENTS_KILL"]], check=True)
    def ready():
        try:
            return client.CoreV1Api(client.ApiClient()).list_namespace(limit=1)
        except Exception:
            return False
    within(30, "the server is ready again", ready)


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name), data=data)


logging.disable(logging.CRITICAL)  # connections die on purpose
config.load_kube_config(os.environ["KUBECONFIG"])
core, apps, auth = client.CoreV1Api(), client.AppsV1Api(), client.AuthenticationV1Api()
custom, extensions = client.CustomObjectsApi(), client.ApiextensionsV1Api()


@check
def the_namespace_is_there():
    if not gone(core.read_namespace, NS):
        core.delete_namespace(NS)
    within(30, "it is created", lambda: core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NS))))
    equal(client.VersionApi().get_code().minor, "37")


@check
def objects_are_made_read_and_refused():
    made = core.create_namespaced_config_map(NS, config_map("made", a="1"), field_manager="me")
    equal(made.metadata.managed_fields[0].manager, "me")
    equal(core.read_namespaced_config_map("made", NS).to_dict(), made.to_dict())
    refused(409, 'configmaps "made" already exists', core.create_namespaced_config_map, NS, config_map("made"))
    refused(404, 'configmaps "none" not found', core.read_namespaced_config_map, "none", NS)
    status = refused(422, 'ConfigMap "Not" is invalid', core.create_namespaced_config_map, NS, config_map("Not"))
    equal(status["details"]["causes"][0]["field"], "metadata.name")
    raw = client.ApiClient()
    request = raw.param_serialize("POST", f"/api/v1/namespaces/{NS}/configmaps", query_params=[("fieldValidation", "Strict")],
                                  header_params={"Content-Type": "application/json"}, body={"metadata": {"name": "x"}, "datum": {}})
    answer = raw.call_api(*request)
    equal((answer.status, json.loads(answer.read())["message"]), (400, 'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "datum"'))
    dry = core.create_namespaced_config_map(NS, config_map("dry"), dry_run="All")
    assert dry.metadata.uid and gone(core.read_namespaced_config_map, "dry", NS)


@check
def lists_are_paged_and_selected():
    for i in range(13):
        core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name=f"page-{i:02}", labels={"page": str(i % 2)})))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(NS, limit=5, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
        assert page.metadata.remaining_item_count
    equal(names, [item.metadata.name for item in core.list_namespaced_config_map(NS).items])
    equal(len(core.list_namespaced_config_map(NS, label_selector="page in (1)").items), 6)
    equal(len(core.list_namespaced_config_map(NS, field_selector="metadata.name=page-03").items), 1)
    equal(len(core.list_config_map_for_all_namespaces(label_selector="page").items), 13)
    refused(400, "is not a known field selector", core.list_namespaced_config_map, NS, field_selector="data.a=b")


@check
def updates_conflict_and_are_tried_again():
    old = core.read_namespaced_config_map("made", NS)
    core.replace_namespaced_config_map("made", NS, config_map("made", n="0"))
    refused(409, "the object has been modified", core.replace_namespaced_config_map, "made", NS, old)
    errors = []

    def one_more():
        object = core.read_namespaced_config_map("made", NS)
        object.data["n"] = str(int(object.data["n"]) + 1)
        core.replace_namespaced_config_map("made", NS, object)

    def writer():
        try:
            for _ in range(5):
                retry_on_conflict(one_more, Backoff(duration=0.005, factor=1.0, jitter=1.0, steps=500))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=writer) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    equal((errors, core.read_namespaced_config_map("made", NS).data["n"]), ([], "20"))


@check
def patches_of_each_type():
    def patch(body, **named):
        return core.patch_namespaced_config_map("made", NS, body, **named).data
    equal(patch([{"op": "test", "path": "/data/n", "value": "20"}, {"op": "move", "from": "/data/n", "path": "/data/m"}], _content_type="application/json-patch+json"), {"m": "20"})
    equal(patch({"data": {"m": None, "o": "1"}}, _content_type="application/merge-patch+json"), {"o": "1"})
    equal(patch({"data": {"p": "2"}}, _content_type="application/strategic-merge-patch+json"), {"o": "1", "p": "2"})
    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}, "data": {"q": "3"}}
    equal(patch(applied, _content_type="application/apply-patch+yaml", field_manager="one"), {"o": "1", "p": "2", "q": "3"})
    applied["data"]["q"] = "4"
    status = refused(409, 'Apply failed with 1 conflict: conflict with "one": .data.q', patch, applied, _content_type="application/apply-patch+yaml", field_manager="two")
    equal(status["details"]["causes"], [{"reason": "FieldManagerConflict", "message": 'conflict with "one"', "field": ".data.q"}])
    equal(patch(applied, _content_type="application/apply-patch+yaml", field_manager="two", force=True)["q"], "4")


@check
def status_and_scale_are_apart():
    labels = {"app": "d"}
    template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=client.V1PodSpec(containers=[client.V1Container(name="a", image="a")]))
    made = apps.create_namespaced_deployment(NS, client.V1Deployment(metadata=client.V1ObjectMeta(name="d"), spec=client.V1DeploymentSpec(
        replicas=0, selector=client.V1LabelSelector(match_labels=labels), template=template)))
    equal((made.spec.strategy.type, made.spec.strategy.rolling_update.max_surge, made.spec.revision_history_limit), ("RollingUpdate", "25%", 10))
    within(10, "its status is written", lambda: apps.read_namespaced_deployment_status("d", NS).status.observed_generation == 1)
    got = apps.patch_namespaced_deployment_status("d", NS, {"spec": {"paused": True}, "status": {"conditions": [{"type": "Mine", "status": "True"}]}})
    equal((got.spec.paused, "Mine" in [c.type for c in got.status.conditions]), (None, True))
    equal(apps.patch_namespaced_deployment_scale("d", NS, {"spec": {"replicas": 1}}).spec.replicas, 1)
    within(10, "it has a pod", lambda: core.list_namespaced_pod(NS, label_selector="app=d").items)
    pod = core.list_namespaced_pod(NS, label_selector="app=d").items[0]
    equal((pod.metadata.owner_references[0].kind, pod.status.phase, pod.status.qos_class), ("ReplicaSet", "Pending", "BestEffort"))


@check
def deletions_have_preconditions_and_propagate():
    made = core.create_namespaced_config_map(NS, config_map("owner"))
    options = lambda **named: client.V1DeleteOptions(**named)
    refused(409, "the UID in the precondition (no) does not match", core.delete_namespaced_config_map, "owner", NS, body=options(preconditions=client.V1Preconditions(uid="no")))
    child = config_map("child")
    child.metadata.owner_references = [client.V1OwnerReference(api_version="v1", kind="ConfigMap", name="owner", uid=made.metadata.uid, block_owner_deletion=True)]
    core.create_namespaced_config_map(NS, child)
    status = core.delete_namespaced_config_map("owner", NS, body=options(propagation_policy="Foreground", preconditions=client.V1Preconditions(resource_version=made.metadata.resource_version)))
    within(20, "both are gone", lambda: gone(core.read_namespaced_config_map, "owner", NS) and gone(core.read_namespaced_config_map, "child", NS))
    apps.delete_namespaced_deployment("d", NS, propagation_policy="Background")
    within(20, "its pods are gone", lambda: not core.list_namespaced_pod(NS).items and not apps.list_namespaced_replica_set(NS).items)
    answer = core.delete_namespaced_config_map("made", NS)
    equal((answer["status"], answer["details"]["name"]), ("Success", "made"))
    core.delete_collection_namespaced_config_map(NS, label_selector="page=0")
    equal(len(core.list_namespaced_config_map(NS, label_selector="page").items), 6)


@check
def custom_objects_are_served():
    plural = dict(group="python.example", version="v1", namespace=NS, plural="boats")
    column = client.V1CustomResourceColumnDefinition(name="Length", type="integer", json_path=".spec.length")
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"length": {"type": "integer", "minimum": 1}, "sail": {"type": "string", "default": "white"}}},
              "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}}
    if not gone(extensions.read_custom_resource_definition, "boats.python.example"):
        extensions.delete_custom_resource_definition("boats.python.example")
    utils.create_from_dict(client.ApiClient(), {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "boats.python.example"}, "spec": {
        "group": "python.example", "scope": "Namespaced", "names": {"plural": "boats", "kind": "Boat"}, "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}},
             "additionalPrinterColumns": [{"name": column.name, "type": column.type, "jsonPath": column.json_path}]}]}})
    within(20, "it is established", lambda: any(c.type == "Established" and c.status == "True" for c in extensions.read_custom_resource_definition("boats.python.example").status.conditions or []))
    boat = {"apiVersion": "python.example/v1", "kind": "Boat", "metadata": {"name": "a"}, "spec": {"length": 3}}
    within(10, "it is served", lambda: custom.create_namespaced_custom_object(body=boat, **plural))
    equal(custom.get_namespaced_custom_object(name="a", **plural)["spec"], {"length": 3, "sail": "white"})
    refused(422, "should be greater than or equal to 1", custom.patch_namespaced_custom_object, name="a", body={"spec": {"length": 0}}, **plural)
    equal(custom.patch_namespaced_custom_object_status(name="a", body={"status": {"x": [1]}}, **plural)["status"], {"x": [1]})
    equal(len(custom.list_namespaced_custom_object(**plural)["items"]), 1)
    # The same by what discovery says.
    boats = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="python.example/v1", kind="Boat")
    equal((boats.name, boats.namespaced, boats.singular_name), ("boats", True, "boat"))
    equal(boats.get(name="a", namespace=NS).spec.sail, "white")
    boat["spec"]["sail"] = "red"
    equal(boats.server_side_apply(body=boat, namespace=NS, field_manager="one", force_conflicts=True).spec.sail, "red")
    boat["spec"]["sail"] = "blue"
    refused(409, 'conflict with "one": .spec.sail', boats.server_side_apply, body=boat, namespace=NS, field_manager="two")
    equal(boats.patch(body={"spec": {"sail": None}}, name="a", namespace=NS, content_type="application/merge-patch+json").spec.sail, "white")
    boats.delete(name="a", namespace=NS)
    equal(boats.get(namespace=NS).items, [])
    extensions.delete_custom_resource_definition("boats.python.example")


@check
def tokens_are_requested_and_reviewed():
    account = core.create_namespaced_service_account(NS, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot")))
    token = core.create_namespaced_service_account_token("robot", NS, client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))).status.token
    user = auth.create_token_review(client.V1TokenReview(spec=client.V1TokenReviewSpec(token=token))).status.user
    equal((user.username, user.uid), (f"system:serviceaccount:{NS}:robot", account.metadata.uid))
    mine = client.Configuration.get_default_copy()
    mine.cert_file = mine.key_file = None
    mine.api_key = {"authorization": "Bearer " + token, "BearerToken": "Bearer " + token}
    robot = client.CoreV1Api(client.ApiClient(mine))
    refused(403, f'User "system:serviceaccount:{NS}:robot" cannot list resource "pods"', robot.list_namespaced_pod, NS)


@check
def one_leads():
    leads = threading.Event()
    lock = LeaseLock("lead", NS, "me")
    election = leaderelection.LeaderElection(electionconfig.Config(lock, lease_duration=4, renew_deadline=3, retry_period=1, onstarted_leading=leads.set, onstopped_leading=None))
    threading.Thread(target=election.run, daemon=True).start()
    assert leads.wait(10), "nobody leads"
    equal(client.CoordinationV1Api().read_namespaced_lease("lead", NS).spec.holder_identity, "me")


@check
def watches_and_informers_go_on_after_a_killed_server():
    before = core.create_namespaced_config_map(NS, config_map("seen", n="0"))
    informer = SharedInformer(core.list_namespaced_config_map, namespace=NS)
    informer.start()
    within(10, "the informer has it", lambda: any(o.metadata.name == "seen" for o in informer.cache.list()))

    def numbered(n):
        core.patch_namespaced_config_map("seen", NS, {"data": {"n": str(n)}})

    for n in 1, 2:
        numbered(n)
    seen, killed, w = [], False, watch.Watch()
    version = before.metadata.resource_version
    end = time.monotonic() + 60
    while len(seen) < 6 and time.monotonic() < end:
        try:
            for event in w.stream(core.list_namespaced_config_map, NS, field_selector="metadata.name=seen", resource_version=version, _request_timeout=20):
                seen.append((event["type"], event["object"].data["n"]))
                version = event["object"].metadata.resource_version
                if len(seen) == 2 and not killed:
                    killed = True
                    kill()
                    for n in 3, 4, 5:
                        numbered(n)
                    core.delete_namespaced_config_map("seen", NS)
                if len(seen) == 6:
                    w.stop()
        except Exception as error:
            if isinstance(error, ApiException) and error.status == 410:
                raise
            time.sleep(0.2)  # the connection died with the server
    equal(seen, [("MODIFIED", str(n)) for n in range(1, 6)] + [("DELETED", "5")])
    within(40, "the informer knows", lambda: not any(o.metadata.name == "seen" for o in informer.cache.list()))
    informer.stop()


@check
def a_watch_sends_the_list_itself():
    maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
    types = []
    for event in maps.watch(namespace=NS, timeout=5, send_initial_events=True, resource_version_match="NotOlderThan", allow_watch_bookmarks=True):
        types.append(event["type"])
        if event["type"] == "BOOKMARK":
            equal(event["raw_object"]["metadata"]["annotations"], {"k8s.io/initial-events-end": "true"})
            break
    equal(types, ["ADDED"] * len(maps.get(namespace=NS).items) + ["BOOKMARK"])


@check
def the_namespace_goes():
    core.delete_namespace(NS)
    within(30, "it is gone", lambda: gone(core.read_namespace, NS))


passed = failed = 0
for one in checks:
    name = one.__name__.replace("_", " ")
    if os.environ.get("CLIENTS_ONLY", "") not in name:
        continue
    started = time.monotonic()
    try:
        one()
        passed += 1
        print(f"ok python: {name} ({(time.monotonic() - started) * 1000:.0f} ms)", flush=True)
    except Exception as error:
        failed += 1
        frame = error.__traceback__.tb_next
        while frame.tb_next and frame.tb_next.tb_frame.f_code.co_filename == __file__ and frame.tb_next.tb_frame.f_code.co_name not in ("equal", "refused", "within"):
            frame = frame.tb_next
        print(f"not ok python: {name}: line {frame.tb_lineno}: {type(error).__name__} {' '.join(str(error).split())[:500]}", flush=True)
print(f"python: {passed} passed, {failed} failed", flush=True)
sys.stdout.flush()
os._exit(failed > 0)  # threads of a leader and of watches are left
