"""What the custom resources of ops/kubernetes may say: their definitions are not among Kubernetes' own, so these are small schemas of the fields that are used, closed
like the definitions themselves (an API server drops a field that it does not know, and one with a typing error is such a field). Written by the references of
Prometheus Operator 0.8x (api-reference), KEDA 2.15 (scaledobject-spec), KubeRay 1.5 (RayService v1)."""

TEXT, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}
NAME, DURATION = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"}, {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d))+$"}
ADDRESS, NUMBER = {"type": "string", "pattern": "^http://"}, {"type": "string", "pattern": "^[0-9.]+$"}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def shape(required, **optional):
    """An object with these fields and no others."""
    return {"type": "object", "required": list(required), "additionalProperties": False, "properties": {**required, **optional}}


def many(item):
    return {"type": "array", "minItems": 1, "items": item}


def resource(version, kind, spec):
    meta = shape({"name": NAME, "namespace": NAME}, labels=LABELS, annotations=LABELS)
    return {(version, kind): shape({"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": meta, "spec": spec})}


RELABELINGS = many(shape({"targetLabel": TEXT, "replacement": TEXT}))
RULE = {"oneOf": [shape({"record": {"type": "string", "pattern": "^[a-zA-Z_:][a-zA-Z0-9_:]*$"}, "expr": TEXT}, labels=LABELS),
                  shape({"alert": {"type": "string", "pattern": "^\\w+$"}, "expr": TEXT}, labels=LABELS, annotations=LABELS, **{"for": DURATION})]}
POLICIES = many(shape({"type": {"enum": ["Pods", "Percent"]}, "value": COUNT, "periodSeconds": COUNT}))
SCALING = shape({}, stabilizationWindowSeconds=COUNT, policies=POLICIES, selectPolicy={"enum": ["Max", "Min", "Disabled"]})
TRIGGER = shape({"type": {"const": "prometheus"}, "metadata": shape({"serverAddress": ADDRESS, "query": TEXT, "threshold": NUMBER})})
ENDPOINT = shape({"port": TEXT}, path=TEXT, interval=DURATION, scrapeTimeout=DURATION, honorLabels={"type": "boolean"}, relabelings=RELABELINGS)
POD = {"type": "object"}  # held against Kubernetes' own PodTemplateSpec by the test
GROUP = {"rayStartParams": LABELS, "template": POD}
CLUSTER = shape({"rayVersion": TEXT, "headGroupSpec": shape(GROUP),
                 "workerGroupSpecs": many(shape({"groupName": NAME, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT, **GROUP}))})

KINDS = {
    **resource("monitoring.coreos.com/v1", "ServiceMonitor", shape(
        {"selector": shape({"matchLabels": LABELS}), "endpoints": many(ENDPOINT)})),
    **resource("monitoring.coreos.com/v1alpha1", "ScrapeConfig", shape(
        {"httpSDConfigs": many(shape({"url": ADDRESS}, refreshInterval=DURATION))}, scrapeInterval=DURATION, scrapeTimeout=DURATION, relabelings=RELABELINGS)),
    **resource("monitoring.coreos.com/v1", "PrometheusRule", shape({"groups": many(shape({"name": TEXT, "rules": many(RULE)}))})),
    **resource("keda.sh/v1alpha1", "ScaledObject", shape(
        {"scaleTargetRef": shape({"apiVersion": TEXT, "kind": TEXT, "name": NAME}), "triggers": many(TRIGGER)},
        pollingInterval=COUNT, minReplicaCount=COUNT, maxReplicaCount=COUNT,
        advanced=shape({"horizontalPodAutoscalerConfig": shape({"behavior": shape({}, scaleUp=SCALING, scaleDown=SCALING)})}))),
    **resource("ray.io/v1", "RayService", shape({"serveConfigV2": TEXT, "rayClusterConfig": CLUSTER})),
}
