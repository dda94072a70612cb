from __future__ import annotations

import copy
import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from podrt.errors import InvalidConfig, PodrtError, Unsupported
from podrt.kube.plans import PodPlan, notes_of, parse_files, parse_text
from podrt.model.container import Dependency, InitKind, Mount, MountKind, NamespaceMode
from podrt.model.pod import DEFAULT_SHARE

EXAMPLES = Path(__file__).parents[3] / "examples"


def pod(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "shop"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "db", "image": "base"}], **spec},
    }


def with_container(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{"name": "db", "image": "base", **fields}])


def with_requires(**requires: str) -> dict[str, Any]:
    value = pod(containers=[{"name": name, "image": "base"} for name in "abc"])
    value["metadata"]["annotations"] = {
        f"podrt.io/requires.{name}": needs for name, needs in requires.items()
    }
    return value


def plans(*objects: Any) -> list[PodPlan]:
    return parse_text(yaml.safe_dump_all(objects).encode(), "shop.yaml")


def container(value: dict[str, Any]) -> Any:
    return plans(value)[0].containers[0]


def test_parse_a_pod_gives_podmans_names_and_every_field() -> None:
    value = with_container(
        command=["/bin/srv", "$(HOST)", "$(cat x)", "$$(HOST)"],
        args=["-p", "1"],
        env=[{"name": "HOST", "value": "here"}, {"name": "URL", "value": "http://$(HOST)/"}],
        workingDir="/srv",
        imagePullPolicy="Never",
        ports=[{"containerPort": 80}],
        resources={"limits": {"cpu": "250m", "memory": "64Mi"}, "requests": {"memory": 1024}},
        terminationMessagePath="/dev/termination-log",
        securityContext={
            "runAsUser": 7,
            "runAsGroup": 8,
            "capabilities": {"add": ["NET_RAW"], "drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "seccompProfile": {"type": "Unconfined"},
        },
        volumeMounts=[
            {"name": "data", "mountPath": "/data"},
            {"name": "fast", "mountPath": "/fast"},
            {"name": "host", "mountPath": "/host", "readOnly": True},
        ],
    )
    value["metadata"].update(labels={"app": "shop"}, creationTimestamp=None, uid="x")
    value["spec"].update(
        volumes=[
            {"name": "data", "emptyDir": {}},
            {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "host", "hostPath": {"path": "/etc"}},
        ],
        hostname="till",
        hostNetwork=True,
        hostAliases=[{"ip": "10.0.0.1", "hostnames": ["bank", "purse"]}],
        terminationGracePeriodSeconds=3,
        nodeSelector={"disk": "ssd"},
        securityContext={"supplementalGroups": [5], "sysctls": [{"name": "net.a", "value": "1"}]},
    )
    (plan,) = plans(value)
    assert (plan.config.name, plan.config.hostname) == ("shop", "till")
    assert plan.config.labels == {"app": "shop"}
    assert plan.config.share == {"ipc", "uts"}
    assert plan.config.add_hosts == ("bank:10.0.0.1", "purse:10.0.0.1")
    (one,) = plan.containers
    assert one.name == "shop-db"
    assert one.entrypoint == ("/bin/srv", "here", "$(cat x)", "$(HOST)")
    assert one.command == ("-p", "1")
    assert one.env == {"HOST": "here", "URL": "http://here/"}
    assert (one.workdir, one.user, one.groups) == ("/srv", "7:8", ("5",))
    assert (one.resources.cpu_quota_us, one.resources.cpu_shares) == (25_000, 256)
    assert (one.resources.memory_bytes, one.resources.memory_reservation_bytes) == (64 << 20, 1024)
    assert (one.security.cap_add, one.security.cap_drop) == (("NET_RAW",), ("all",))
    assert one.security.no_new_privileges
    assert one.security.seccomp == "unconfined"
    assert one.read_only
    assert one.namespaces.net is NamespaceMode.HOST
    assert one.sysctls == {"net.a": "1"}
    assert one.stop_timeout_s == 3
    assert one.mounts == (
        Mount(kind=MountKind.VOLUME, source="./data", destination="/data"),
        Mount(kind=MountKind.TMPFS, destination="/fast", options=("size=1048576", "mode=0777")),
        Mount(kind=MountKind.BIND, source="/etc", destination="/host", options=("ro",)),
    )
    assert [need.path for need in plan.host_paths] == ["/etc"]


def test_parse_a_command_without_arguments_drops_the_images() -> None:
    assert container(with_container()).command is None
    assert container(with_container(command=["a"])).command == ()
    assert container(with_container(args=["a"])).entrypoint is None


def test_parse_the_examples_gives_their_pods() -> None:
    (shop,) = parse_files([str(EXAMPLES / "shop.yaml")])
    assert [one.name for one in shop.containers] == [
        "shop-stock",
        "shop-db",
        "shop-cache",
        "shop-web",
        "shop-worker",
    ]
    assert shop.containers[0].init is InitKind.ALWAYS
    assert shop.containers[3].requires == (Dependency("shop-db"), Dependency("shop-cache"))
    fleet = parse_files([str(EXAMPLES / "fleet.yaml")])
    assert [plan.name for plan in fleet] == [f"fleet-pod-{number}" for number in range(50)]
    assert fleet[49].containers[1].requires == (Dependency("fleet-pod-49-server"),)
    assert notes_of(fleet) == []


def test_parse_a_deployment_of_one_has_podmans_name() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod()["spec"]}
    value = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "fleet"},
        "spec": {"template": template, "selector": {"matchLabels": {"a": "b"}}},
    }
    assert [plan.name for plan in plans(value)] == ["fleet-pod"]
    value["spec"]["replicas"] = 0
    assert plans(value) == []
    value["spec"]["replicas"] = 10**9
    with pytest.raises(InvalidConfig, match=r"shop\.yaml: spec\.replicas: "):
        plans(value)


def test_parse_a_list_gives_its_items() -> None:
    second = pod()
    second["metadata"]["name"] = "other"
    value = {"apiVersion": "v1", "kind": "List", "items": [pod(), second]}
    assert [plan.name for plan in plans(value)] == ["shop", "other"]
    value["items"][1]["spec"]["containers"][0]["imagee"] = "x"
    with pytest.raises(
        InvalidConfig,
        match=r"^shop\.yaml: items\[1\]\.spec\.containers\[0\]\.imagee: unknown field$",
    ):
        plans(value)


def test_parse_several_documents_says_which_is_wrong() -> None:
    with pytest.raises(
        InvalidConfig, match=r"^shop\.yaml \(object at line \d+\): spec\.x: unknown"
    ):
        plans(pod(), pod(x=1))


@pytest.mark.parametrize("word", ["once", "always"])
def test_parse_podmans_init_annotation_is_kept(word: str) -> None:
    value = pod(initContainers=[{"name": "init", "image": "base"}])
    value["metadata"]["annotations"] = {"io.podman.annotations.init.container.type": word}
    assert container(value).init == word


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "shop.yaml: kind: is missing"),
        ({"kind": "Pod"}, "shop.yaml: apiVersion: 'None' is not v1"),
        ({"kind": "Pood", "apiVersion": "v1"}, "shop.yaml: kind: unknown kind 'Pood'"),
        ({"kind": ["Pod"]}, "shop.yaml: kind: unknown kind"),
        ({**pod(), "apiVersion": "v2"}, "shop.yaml: apiVersion: 'v2' is not v1"),
        ({**pod(), "spec": None}, "shop.yaml: spec: is missing"),
        ({**pod(), "spec": []}, "shop.yaml: spec: expected object, got array"),
        ({**pod(), "metadata": {}}, "shop.yaml: metadata.name: "),
        ({**pod(), "metadata": {"name": "a b"}}, "shop.yaml: metadata.name: 'a b'"),
        ({**pod(), "metadata": {"name": "a", "labels": {"x": 1}}}, "shop.yaml: metadata.labels"),
        (pod(containers=[]), "shop.yaml: spec.containers: a pod needs a container"),
        (pod(containers={}), "shop.yaml: spec.containers: expected array, got object"),
        (pod(containers=[{"name": "a"}]), "shop.yaml: spec.containers[0].image: is missing"),
        (pod(containers=[{"image": "a"}]), "shop.yaml: spec.containers[0].name: is missing"),
        (pod(container=1), "shop.yaml: spec.container: unknown field"),
        (with_container(imagee="x"), "shop.yaml: spec.containers[0].imagee: unknown field"),
        (with_container(image=7), "shop.yaml: spec.containers[0].image: expected str, got int"),
        (with_container(image=""), "shop.yaml: spec.containers[0].image: is empty"),
        (with_container(command="ls"), "shop.yaml: spec.containers[0].command: expected array"),
        (
            with_container(command=["sleep", True]),
            "shop.yaml: spec.containers[0].command[1]: expected str, got bool",
        ),
        (with_container(workingDir="x"), "shop.yaml: spec.containers[0].workingDir: x is"),
        (with_container(env=[{"name": "a=b"}]), "shop.yaml: spec.containers[0].env[0].name: "),
        (
            with_container(resources={"limits": {"memory": "64MB"}}),
            "shop.yaml: spec.containers[0].resources.limits.memory: '64MB'",
        ),
        (
            with_container(resources={"limits": {"cpu": 1}, "requests": {"cpu": 2}}),
            "shop.yaml: spec.containers[0].resources.requests.cpu: is more than the limit",
        ),
        (
            with_container(securityContext={"capabilities": {"add": ["NET_RAWW"]}}),
            "shop.yaml: spec.containers[0].securityContext.capabilities.add: unknown capability",
        ),
        (
            with_container(securityContext={"runAsUser": -1}),
            "shop.yaml: spec.containers[0].securityContext: -1",
        ),
        (
            with_container(securityContext={"runAsUser": 0, "runAsNonRoot": True}),
            "shop.yaml: spec.containers[0].securityContext.runAsUser: 0 is root",
        ),
        (
            with_container(volumeMounts=[{"name": "x", "mountPath": "/x"}]),
            "shop.yaml: spec.containers[0].volumeMounts[0].name: the pod has no volume x",
        ),
        (pod(volumes=[{"name": "x"}]), "shop.yaml: spec.volumes[0]: needs one of"),
        (
            pod(volumes=[{"name": "x", "emptyDir": {}}] * 2),
            "shop.yaml: spec.volumes[1].name: volume x is defined twice",
        ),
        (
            pod(volumes=[{"name": "x", "hostPath": {"path": "etc"}}]),
            "shop.yaml: spec.volumes[0].hostPath.path: etc is not an absolute path",
        ),
        (pod(restartPolicy="Sometimes"), "shop.yaml: spec.restartPolicy: invalid enum value"),
        (
            pod(initContainers=[{"name": "db", "image": "base"}]),
            "shop.yaml: spec.containers[0].name: container db is defined twice",
        ),
        (
            with_requires(a="b", b="c", c="a"),
            "shop.yaml: metadata.annotations: a cycle of requirements: a -> b -> c -> a",
        ),
        (
            with_requires(a="a"),
            "shop.yaml: metadata.annotations: a cycle of requirements: a -> a",
        ),
        (
            with_requires(a="b,nobody"),
            "shop.yaml: metadata.annotations.podrt.io/requires.a: "
            "no such container in the pod: nobody",
        ),
        (
            with_requires(nobody="a"),
            "shop.yaml: metadata.annotations.podrt.io/requires.nobody: "
            "no such container in the pod: nobody",
        ),
        (with_requires(a="b:sometime"), "shop.yaml: metadata.annotations.podrt.io/requires.a: "),
        (with_requires(a=""), "shop.yaml: metadata.annotations.podrt.io/requires.a: "),
    ],
)
def test_parse_what_is_wrong_names_file_and_field(value: Any, said: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        plans(value)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"kind": "Service", "apiVersion": "v1"}, "shop.yaml: kind Service"),
        (pod(dnsConfig={"x": 1}), "shop.yaml: spec.dnsConfig"),
        (pod(securityContext={"seLinuxOptions": {"a": 1}}), "shop.yaml: spec.securityContext.seL"),
        (with_container(tty=True), "shop.yaml: spec.containers[0].tty"),
        (with_container(stdin=True), "shop.yaml: spec.containers[0].stdin"),
        (with_container(livenessProbe={"x": 1}), "shop.yaml: spec.containers[0].livenessProbe"),
        (with_container(lifecycle={"x": 1}), "shop.yaml: spec.containers[0].lifecycle"),
        (
            pod(initContainers=[{"name": "s", "image": "b", "restartPolicy": "Always"}]),
            "shop.yaml: spec.initContainers[0].restartPolicy",
        ),
        (
            with_container(env=[{"name": "a", "valueFrom": {"x": 1}}]),
            "shop.yaml: spec.containers[0].env[0].valueFrom",
        ),
        (
            with_container(ports=[{"containerPort": 1, "hostPort": 1}]),
            "shop.yaml: spec.containers[0].ports[0].hostPort",
        ),
        (
            with_container(volumeMounts=[{"name": "x", "mountPath": "/x", "subPath": "y"}]),
            "shop.yaml: spec.containers[0].volumeMounts[0].subPath",
        ),
        (
            pod(volumes=[{"name": "x", "persistentVolumeClaim": {"claimName": "y"}}]),
            "shop.yaml: spec.volumes[0].persistentVolumeClaim",
        ),
        (
            pod(volumes=[{"name": "x", "emptyDir": {"sizeLimit": "1Mi"}}]),
            "shop.yaml: spec.volumes[0].emptyDir.sizeLimit",
        ),
        (
            with_requires(a="b:healthy"),
            "shop.yaml: metadata.annotations.podrt.io/requires.a: b:healthy",
        ),
    ],
)
def test_parse_what_is_not_built_is_unsupported_by_name(value: Any, said: str) -> None:
    with pytest.raises(Unsupported) as caught:
        plans(value)
    assert str(caught.value).startswith(said)


def test_parse_fields_that_ask_for_nothing_are_accepted() -> None:
    plans(pod(hostPID=False, shareProcessNamespace=False, dnsPolicy="Default", tolerations=[]))
    plans(with_container(tty=False, stdin=False, envFrom=[]))


def test_parse_a_shared_process_namespace_is_the_pod_s() -> None:
    [plan] = plans(pod(shareProcessNamespace=True))
    assert plan.config.share == DEFAULT_SHARE | {"pid"}
    [plan] = plans(pod(hostPID=True))
    assert plan.config.share is None
    with pytest.raises(InvalidConfig, match=r"spec\.shareProcessNamespace: and hostPID"):
        plans(pod(shareProcessNamespace=True, hostPID=True))


def test_parse_what_is_done_otherwise_is_noted() -> None:
    (note,) = notes_of(plans(pod(securityContext={"fsGroup": 5})))
    assert note.startswith("shop.yaml: spec.securityContext.fsGroup: ignored")
    assert notes_of(plans(pod())) == []


@pytest.mark.parametrize(
    ("word", "policy"),
    [("Always", "always"), ("OnFailure", "on-failure"), ("Never", "no"), (None, "always")],
)
def test_parse_restart_policy_is_podmans(word: str | None, policy: str) -> None:
    value = pod(restartPolicy=word)
    if word is None:
        del value["spec"]["restartPolicy"]
    (plan,) = plans(value)
    assert (plan.config.restart_policy, plan.config.exit_policy) == (policy, "stop")


def test_parse_a_field_with_a_line_break_is_one_line() -> None:
    with pytest.raises(InvalidConfig, match="unprintable") as caught:
        plans(with_container(**{"ima\nge": 1}))
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidConfig) as caught:
        plans(with_requires(a="b\nc"))
    assert "\n" not in str(caught.value)


def test_parse_shared_memory_volume_is_unsupported() -> None:
    mounts = [{"name": "m", "mountPath": "/m"}]
    value = pod(
        containers=[
            {"name": name, "image": "base", "volumeMounts": mounts} for name in ("one", "two")
        ],
        volumes=[{"name": "m", "emptyDir": {"medium": "Memory"}}],
    )
    with pytest.raises(Unsupported, match=r"spec\.volumes\[0\]\.emptyDir\.medium"):
        plans(value)


def test_parse_two_pods_of_one_name_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="pod shop twice"):
        plans(pod(), pod())


def test_parse_a_long_chain_of_requirements_needs_no_stack() -> None:
    names = [f"c{number}" for number in range(3000)]
    value = pod(containers=[{"name": name, "image": "base"} for name in names])
    value["metadata"]["annotations"] = {
        f"podrt.io/requires.{one}": other for one, other in itertools.pairwise(names)
    }
    assert len(plans(value)[0].containers) == 3000


def test_parse_damaged_examples_ends_in_plans_or_one_line() -> None:
    """Values of the wrong kind at every place of a real file."""
    source = random.Random(7)
    whole = yaml.safe_load((EXAMPLES / "shop.yaml").read_text())
    junk = [
        None,
        "a\nb",
        0,
        -1,
        1.5,
        "",
        "x",
        "a b",
        [],
        {},
        [None],
        {"x": {}},
        True,
        "1" * 400,
        10**30,
    ]
    for _ in range(600):
        value = copy.deepcopy(whole)
        for _ in range(source.randint(1, 3)):
            damage(source, value, junk)
        try:
            plans(value)
        except PodrtError as error:
            assert str(error).startswith("shop.yaml")
            assert "\n" not in str(error)


def damage(source: random.Random, value: Any, junk: list[Any]) -> None:
    """Put something from `junk` somewhere below `value`."""
    while value:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = source.choice(keys)
        below = value[key]
        if isinstance(below, dict | list) and below and source.random() < 0.8:
            value = below
            continue
        value[key] = copy.deepcopy(source.choice(junk))
        return


def test_parse_variables_that_multiply_end_soon_in_little_memory() -> None:
    env = [{"name": "V0", "value": "x" * 100}]
    env += [{"name": f"V{at}", "value": f"$(V{at - 1})" * 10} for at in range(1, 12)]
    with pytest.raises(InvalidConfig, match=r"^shop\.yaml: spec\.containers\[0\]: its variables"):
        plans(with_container(env=env))


def test_parse_many_replicas_of_many_containers_is_refused() -> None:
    many = [{"name": f"c{at}", "image": "base"} for at in range(50)]
    value = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "fleet"},
        "spec": {"replicas": 5000, "template": {"spec": pod(containers=many)["spec"]}},
    }
    with pytest.raises(InvalidConfig, match=r"^shop\.yaml: more than 5000 pods or 20000 cont"):
        plans(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (pod(hostname="a\nb"), "shop.yaml: spec.hostname: "),
        (pod(hostAliases=[{"ip": "1\n2", "hostnames": []}]), "shop.yaml: spec.hostAliases[0].ip"),
        (
            pod(hostAliases=[{"ip": "::1", "hostnames": ["a\nb"]}]),
            "shop.yaml: spec.hostAliases[0].hostnames",
        ),
    ],
)
def test_parse_names_that_would_break_etc_hosts_are_refused(value: Any, said: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        plans(value)
    assert str(caught.value).startswith(said)
