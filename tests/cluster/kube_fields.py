"""Fields of the manifests that we write, with their types: KubeRay's API reference (ray.io/v1, v1.7) and Kubernetes'.

An operator ignores a field that it does not know, so a misspelt one would go unnoticed until it is missed.
A type is a Python type, a table's name, `[type]` for lists, `{type}` for maps with free keys.
"""

from typing import Any

QUANTITY = (str, int)
FIELDS: dict[str, dict[str, Any]] = {
    "RayCluster": {"apiVersion": str, "kind": str, "metadata": "Metadata", "spec": "RayClusterSpec"},
    "RayJob": {"apiVersion": str, "kind": str, "metadata": "Metadata", "spec": "RayJobSpec"},
    "RayClusterSpec": {
        "upgradeStrategy": dict,
        "authOptions": "AuthOptions",
        "suspend": bool,
        "managedBy": str,
        "autoscalerOptions": "AutoscalerOptions",
        "headServiceAnnotations": {str},
        "enableInTreeAutoscaling": bool,
        "gcsFaultToleranceOptions": dict,
        "headGroupSpec": "HeadGroupSpec",
        "rayVersion": str,
        "workerGroupSpecs": ["WorkerGroupSpec"],
    },
    "AuthOptions": {"mode": str, "secretName": str, "enableK8sTokenAuth": bool},
    "AutoscalerOptions": {
        "resources": "Resources",
        "image": str,
        "imagePullPolicy": str,
        "securityContext": "ContainerSecurity",
        "idleTimeoutSeconds": int,
        "upscalingMode": str,
        "version": str,
        "env": ["Env"],
        "envFrom": [dict],
        "volumeMounts": ["Mount"],
        "command": [str],
        "args": [str],
    },
    "HeadGroupSpec": {
        "template": "PodTemplate",
        "headService": dict,
        "enableIngress": bool,
        "ingressOptions": dict,
        "resources": {str},
        "labels": {str},
        "rayStartParams": {str},
        "serviceType": str,
    },
    "WorkerGroupSpec": {
        "suspend": bool,
        "groupName": str,
        "replicas": int,
        "minReplicas": int,
        "maxReplicas": int,
        "idleTimeoutSeconds": int,
        "priority": int,
        "resources": {str},
        "labels": {str},
        "rayStartParams": {str},
        "template": "PodTemplate",
        "scaleStrategy": dict,
        "numOfHosts": int,
    },
    "RayJobSpec": {
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "rayClusterSpec": "RayClusterSpec",
        "submitterPodTemplate": "PodTemplate",
        "metadata": {str},
        "clusterSelector": {str},
        "submitterConfig": "SubmitterConfig",
        "managedBy": str,
        "deletionStrategy": dict,
        "entrypoint": str,
        "runtimeEnvYAML": str,
        "jobId": str,
        "submissionMode": str,
        "entrypointResources": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "ttlSecondsAfterFinished": int,
        "shutdownAfterJobFinishes": bool,
        "suspend": bool,
    },
    "SubmitterConfig": {"backoffLimit": int},
    "Metadata": {"name": str, "namespace": str, "labels": {str}, "annotations": {str}},
    "PodTemplate": {"metadata": "Metadata", "spec": "PodSpec"},
    "PodSpec": {
        "containers": ["Container"],
        "initContainers": ["Container"],
        "volumes": ["Volume"],
        "restartPolicy": str,
        "terminationGracePeriodSeconds": int,
        "automountServiceAccountToken": bool,
        "serviceAccountName": str,
        "nodeSelector": {str},
        "tolerations": [dict],
        "affinity": dict,
        "priorityClassName": str,
        "imagePullSecrets": [dict],
        "securityContext": "PodSecurity",
    },
    "PodSecurity": {
        "runAsNonRoot": bool,
        "runAsUser": int,
        "runAsGroup": int,
        "fsGroup": int,
        "fsGroupChangePolicy": str,
        "seccompProfile": {str},
    },
    "Container": {
        "name": str,
        "image": str,
        "imagePullPolicy": str,
        "command": [str],
        "args": [str],
        "env": ["Env"],
        "ports": ["Port"],
        "resources": "Resources",
        "securityContext": "ContainerSecurity",
        "lifecycle": {"Handler"},
        "volumeMounts": ["Mount"],
        "workingDir": str,
    },
    "Handler": {"exec": {"list of str"}, "httpGet": dict, "sleep": dict},
    "Env": {"name": str, "value": str, "valueFrom": dict},
    "Port": {"name": str, "containerPort": int, "protocol": str},
    "Resources": {"requests": {QUANTITY}, "limits": {QUANTITY}},
    "ContainerSecurity": {"allowPrivilegeEscalation": bool, "capabilities": dict, "readOnlyRootFilesystem": bool},
    "Mount": {"name": str, "mountPath": str, "subPath": str, "readOnly": bool},
    "Volume": {"name": str, "persistentVolumeClaim": dict, "emptyDir": dict, "configMap": dict, "secret": dict},
}
REQUIRED: dict[str, set[str]] = {
    "RayClusterSpec": {"headGroupSpec"},
    "HeadGroupSpec": {"template"},
    "WorkerGroupSpec": {"groupName", "minReplicas", "maxReplicas", "template"},
    "PodSpec": {"containers"},
    "Container": {"name"},
    "Env": {"name"},
    "Mount": {"name", "mountPath"},
    "Volume": {"name"},
    "Port": {"containerPort"},
}
CHOICES: dict[tuple[str, str], set[str]] = {
    ("AuthOptions", "mode"): {"token", "disabled"},
    ("AutoscalerOptions", "upscalingMode"): {"Default", "Aggressive", "Conservative"},
    ("RayJobSpec", "submissionMode"): {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"},
    ("HeadGroupSpec", "serviceType"): {"ClusterIP", "NodePort", "LoadBalancer"},
    ("PodSpec", "restartPolicy"): {"Always", "OnFailure", "Never"},
}


def faults(value: Any, kind: Any, path: str) -> list[str]:
    """What is wrong with `value` as a `kind`, each with its path; empty where nothing is."""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{path}: a list is expected, not {value!r}"]
        return [fault for i, item in enumerate(value) for fault in faults(item, kind[0], f"{path}[{i}]")]
    if isinstance(kind, set):
        if not isinstance(value, dict):
            return [f"{path}: a map is expected, not {value!r}"]
        return [fault for key, item in value.items() for fault in faults(item, next(iter(kind)), f"{path}.{key}")]
    if kind == "list of str":
        return faults(value, [str], path)
    if isinstance(kind, str):
        return _faults_of_object(value, kind, path)
    fits = isinstance(value, (int, float) if kind is float else kind) and not (kind is int and isinstance(value, bool))
    return [] if fits else [f"{path}: {value!r} is not of type {kind}"]


def _faults_of_object(value: Any, kind: str, path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: a {kind} is expected, not {value!r}"]
    table = FIELDS[kind]
    found = [f"{path}: a {kind} needs {name}" for name in sorted(REQUIRED.get(kind, set()) - set(value))]
    for key, item in value.items():
        if key not in table:
            found.append(f"{path}: {kind} has no field {key}")
            continue
        found += faults(item, table[key], f"{path}.{key}")
        choices = CHOICES.get((kind, key))
        if choices and item not in choices:
            found.append(f"{path}.{key}: {item!r} is none of {sorted(choices)}")
    return found
