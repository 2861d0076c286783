"""What a refresh makes of a kept revision: today's template of its own choice, where it is kept, and the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from slipway.api.status import ModelDeploymentStatus
from slipway.decide.commands import CommandOutcome, TemplateChange
from slipway.decide.inputs import Inputs, gather_inputs
from slipway.decide.placement import new_revision
from slipway.model.names import REFRESHED_ANNOTATION, REFRESHED_BY_ANNOTATION
from slipway.model.revision import Refresh, Revision, read_revision, write_refresh
from slipway.model.rollout_state import RolloutState
from slipway.model.signals import Command
from slipway.observe.snapshot import Snapshot
from slipway.render.objects import render_controller_revision
from slipway.render.pod_template import render_template, with_template
from slipway.render.refresh import MAX_BYTES, Refreshed, refresh, todays_template
from tests.unit.specs import IMAGES, deployment

Json = dict[str, Any]

TODAY = replace(IMAGES, agent="registry.invalid/agent:next")
TWO: Json = {"model": {"version": 2}}
IMAGE_VOLUME: Json = {
    "model": {"uri": "oci://registry.invalid/digits", "version": 2, "versions": {"1": "v1", "2": "v2"}},
    "storage": {"imageVolume": True},
}


def kept(spec: Json | None = None, number: int = 1) -> Revision:
    """A revision as the operator before made it."""
    asked = deployment(spec or {})
    return with_template(asked, new_revision(asked, number), IMAGES)


def snapshot(*revisions: Revision) -> Snapshot:
    return Snapshot({}, frozenset(), {each.hash: each for each in revisions}, {}, {}, (), {})


def said(
    stable: Revision,
    change: TemplateChange | None = TemplateChange.ANEW,
    *others: Revision,
    command: str = "c1",
    spec: Json | None = None,
    agent: str = TODAY.agent,
) -> Refreshed:
    """What comes of a command while `stable` serves. spec: of the object now. agent: today's image."""
    here = snapshot(stable, *others)
    inputs: Inputs = gather_inputs(deployment(spec or {}), here, ModelDeploymentStatus(), {}, None)
    accepted = CommandOutcome(
        RolloutState(stable.hash),
        Command("refresh", stable.hash, command),
        is_accepted=True,
        message="so",
        template=change,
    )
    return refresh(replace(inputs, outcome=accepted), here.revisions, here, replace(TODAY, agent=agent))


def test_the_new_template_is_what_a_new_revision_of_that_choice_would_get_today() -> None:
    one = kept()
    found = said(one).revisions[one.hash]
    expected = render_template(deployment({}), TODAY, one.hash)
    expected["metadata"]["annotations"] = {REFRESHED_BY_ANNOTATION: "c1"}
    assert found.pod_template == expected
    assert found.refreshed_by == "c1"
    assert (found.template, found.hash, found.number, found.choice) == (one.template, one.hash, one.number, one.choice)


def test_it_is_rendered_from_the_revisions_own_choice_whatever_the_spec_says_now() -> None:
    one = kept({"runtime": {"env": [{"name": "A", "value": "own"}]}})
    found = said(one, spec={"runtime": {"env": [{"name": "A", "value": "the spec's"}]}}).revisions[one.hash]
    server = found.pod_template["spec"]["containers"][0]
    assert {"name": "A", "value": "own"} in server["env"]


def test_a_mounted_image_stays_the_one_that_the_revision_was_made_with() -> None:
    one = kept(IMAGE_VOLUME)
    moved = json.loads(json.dumps(IMAGE_VOLUME))
    moved["model"]["versions"]["2"] = "other"
    template = todays_template(deployment(moved), one, TODAY)
    volume = next(each for each in template["spec"]["volumes"] if "image" in each)
    assert volume["image"]["reference"] == "registry.invalid/digits:v2"


def test_said_again_by_whoever_goes_on_after_an_end_it_is_the_same() -> None:
    one = kept()
    once = said(one)
    again = said(once.revisions[one.hash])
    assert again.revisions == once.revisions
    assert again.outcome.message == once.outcome.message


def test_what_shares_its_template_shares_the_new_one_and_others_keep_theirs() -> None:
    one = kept()
    two = replace(kept(TWO, 2), template=one.template)  # it arrived in the same pods
    other = kept({"resources": {"limits": {"cpu": "2"}}}, 3)
    found = said(two, TemplateChange.ANEW, one, other).revisions
    assert found[one.hash].pod_template == found[two.hash].pod_template
    assert found[other.hash] == other


def test_a_second_refresh_and_its_abort_keep_the_template_shared() -> None:
    one = said(kept()).revisions[kept().hash]
    two = replace(kept(TWO, 2), template=one.pod_template)  # it came in place after the first refresh
    second = said(two, TemplateChange.ANEW, one, command="c2", agent="registry.invalid/agent:third").revisions
    assert second[one.hash].pod_template == second[two.hash].pod_template != two.template
    back = said(second[two.hash], TemplateChange.BACK, second[one.hash], command="c3").revisions
    assert back[one.hash].pod_template == back[two.hash].pod_template == two.template


def test_back_is_what_was_there_before() -> None:
    one = kept()
    first = said(one).revisions[one.hash]
    back = said(first, TemplateChange.BACK, command="c2").revisions[one.hash]
    assert back.pod_template == one.template
    assert said(back, TemplateChange.BACK, command="c2").revisions[one.hash] == back


def test_without_a_command_nothing_changes_and_what_would_is_offered() -> None:
    one = kept()
    found = said(one, None)
    assert found.revisions == {one.hash: one}
    assert found.offer == f"image of agent {IMAGES.agent} becomes {TODAY.agent}"


def test_what_differs_beside_images_is_offered_as_one() -> None:
    one = kept()
    template = json.loads(json.dumps(one.template))
    del template["spec"]["automountServiceAccountToken"]
    assert "the pod template is this release's" in said(replace(one, template=template), None).offer


def test_a_template_that_no_annotation_can_hold_is_refused_in_words() -> None:
    one = kept({"podTemplate": {"metadata": {"annotations": {"long": "x" * MAX_BYTES}}}})
    found = said(one)
    assert not found.outcome.is_accepted
    assert "make spec.podTemplate smaller" in found.outcome.message
    assert found.revisions[one.hash] == one


# ---- as it is kept


def test_it_is_kept_in_an_annotation_and_read_back_while_the_data_stays() -> None:
    one = kept()
    new = said(one).revisions[one.hash]
    before, after = (render_controller_revision(deployment({}), each, {}).manifest for each in (one, new))
    assert before["data"] == after["data"]
    assert REFRESHED_ANNOTATION in after["metadata"]["annotations"]
    assert read_revision(after) == new
    assert read_revision(before) == one


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"template": {}}', '{"by": "x", "template": 1}'])
def test_an_annotation_that_cannot_be_read_leaves_the_revisions_own_template(text: str) -> None:
    one = kept()
    body = render_controller_revision(deployment({}), one, {}).manifest
    body["metadata"]["annotations"] = {REFRESHED_ANNOTATION: text}
    assert read_revision(body) == one


def test_written_it_is_always_the_same_text() -> None:
    one = Refresh("c", {"b": 1, "a": 2}, {"z": 1})
    assert write_refresh(one) == write_refresh(replace(one, template={"a": 2, "b": 1}))
    assert "before" not in write_refresh(Refresh("c", {"a": 1}))
