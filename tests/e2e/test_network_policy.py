"""NetworkPolicies at a real API server: what stands there is what was rendered, or every pass would write it again.

That they are enforced is the network plugin's affair, and the tests' cluster has none that does.
"""

from __future__ import annotations

import json

from slipway.render.drift import differs
from slipway.render.network_policy import read_peers, render_pods_policy, render_router_policy
from slipway.render.pod_template import render_template
from tests.e2e.stage import Stage
from tests.unit.specs import IMAGES, deployment

EVERY_FORM = [
    {"podSelector": {}},
    {"podSelector": {"matchLabels": {}}, "namespaceSelector": {"matchLabels": {"team": "web"}}},
    {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists", "values": []}]}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
    {"ipBlock": {"cidr": "192.168.0.0/16", "except": []}},
]


def test_policies_stand_as_they_were_rendered(stage: Stage) -> None:
    peers = read_peers(json.dumps({"from": EVERY_FORM, "operator": EVERY_FORM, "metricsFrom": EVERY_FORM}))
    made = deployment()
    template = render_template(made, IMAGES, "abc")
    for child in (render_pods_policy(made, peers, [template]), render_router_policy(made, peers)):
        manifest = {**child.manifest, "metadata": {"name": child.name}}
        stage.given_object(manifest)
        stored = stage.kube.get("NetworkPolicy", child.name, stage.namespace)
        assert stored is not None
        assert stored["spec"] == child.manifest["spec"]
        assert not differs({"spec": child.manifest["spec"]}, {"spec": stored["spec"]})
