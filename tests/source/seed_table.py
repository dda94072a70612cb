"""Every function of the two seed files: what does it in podrt, and which tests show that it does.

The seed is libpod's pod.go and runtime_pod_linux.go, of which podrt keeps the behaviour. A test
holds that calls and tests of this table are there.
"""

from __future__ import annotations

from typing import NamedTuple

POD, RUNTIME = "pod.go", "runtime_pod_linux.go"


class Row(NamedTuple):
    """A function of the seed; dotted names of calls, and tests as "path::name" below tests/."""

    file: str
    function: str
    calls: tuple[str, ...]
    tests: tuple[str, ...]


HERE = "system/test_seed_behaviour.py::"
SCRIPTS = "system/test_podman_scripts.py::test_podman_and_podrt_answer_scripts_alike"
PAIRS = (
    "system/test_verb_pairs.py::"
    "test_two_verbs_at_once_answer_what_they_may_and_leave_the_kernel_s_state"
)
STEPS = (
    "crash/test_every_step.py::test_kill_of_podrt_at_any_step_is_mended_by_the_same_verb",
    "crash/test_every_step.py::test_kill_of_the_monitor_at_any_step_is_mended_by_the_same_verb",
    "crash/test_cancelled.py::test_verb_cancelled_at_any_step_is_finished_by_the_next_call",
)
GONE = (
    HERE + "test_every_call_on_a_removed_pod_says_removed",
    HERE + "test_every_call_of_a_closed_runtime_says_closed_first_of_all",
)
ITSELF = HERE + "test_what_a_pod_says_of_itself_is_what_it_was_made_with"
GRAPHS = (
    "unit/runtime/test_start_walk.py::test_start_of_any_graph_ends_the_same_in_every_interleaving",
    "unit/runtime/test_start_walk.py::"
    "test_start_beside_deaths_at_any_moment_blames_the_dead_and_spares_who_needs_none",
    "system/test_random_graphs.py::"
    "test_random_graph_with_what_fails_and_dies_starts_and_stops_in_order",
)

TABLE = (
    Row(POD, "ID", ("podrt.runtime.pod.Pod",), (ITSELF,)),
    Row(POD, "Name", ("podrt.runtime.pod.Pod",), (ITSELF,)),
    Row(POD, "Namespace", ("podrt.runtime.pod.Pod.namespace",), (ITSELF, *GONE)),
    Row(POD, "Labels", ("podrt.runtime.pod.Pod.labels",),
        (HERE + "test_labels_handed_out_are_a_copy", *GONE)),
    Row(POD, "CreatedTime", ("podrt.runtime.pod.Pod.created_at_ns",), (ITSELF, *GONE)),
    Row(POD, "CgroupParent", ("podrt.runtime.pod.Pod.cgroup_parent",), (ITSELF, *GONE)),
    Row(POD, "UsePodCgroup", ("podrt.runtime.pod.Pod.uses_pod_cgroup",), (ITSELF, *GONE)),
    Row(POD, "CgroupPath", ("podrt.runtime.pod.Pod.cgroup_path",), (ITSELF, *GONE)),
    Row(POD, "newPod", ("podrt.runtime.create.create_pod", "podrt.model.ids.new_id"),
        ("system/test_draft.py::test_draft_that_is_saved_is_a_pod_like_any_other",
         HERE + "test_create_that_fails_gives_its_locks_back_and_tells_of_no_event")),
    Row(POD, "updatePod", ("podrt.runtime.view.View.refresh",
                           "podrt.runtime.context.Context.load_pod"),
        ("unit/store/test_reading.py::*", *GONE)),
    Row(POD, "save", ("podrt.runtime.context.Context.commit",
                      "podrt.runtime.context.Context.record"),
        ("crash/test_store_killed.py::*", "crash/test_store_power.py::*",
         "crash/test_store_refused.py::*")),
    Row(POD, "refresh", ("podrt.runtime.recovery.renew_locks",
                         "podrt.runtime.recovery.undo_dead_intents"),
        ("system/test_races.py::test_create_with_the_name_of_a_dead_intent_succeeds",)),
    Row(POD, "Start", ("podrt.runtime.pod.Pod.start", "podrt.runtime.runtime.Runtime.start_pods"),
        (*GRAPHS, *STEPS, *GONE, PAIRS, SCRIPTS,
         "system/test_start_order.py::test_start_of_many_pods_walks_all_graphs_at_once",
         HERE + "test_start_of_a_pod_without_containers_says_there_is_none_to_begin_with",
         HERE + "test_start_of_a_cycle_names_it_before_anything_is_touched",
         HERE + "test_start_of_a_paused_member_is_its_error_and_the_rest_starts")),
    Row(POD, "startNode", ("podrt.runtime.walk.walk", "podrt.runtime.start.Starter.act",
                           "podrt.runtime.start.Starter.check_dependencies",
                           "podrt.runtime.start.Starter.failed_need"),
        (*GRAPHS, "unit/runtime/test_graph.py::*",
         "system/test_start_order.py::test_start_with_failures_marks_dependents_and_runs_the_rest",
         "system/test_restart.py::"
         "test_restart_skips_paused_members_and_refuses_what_needs_them")),
    Row(POD, "Stop", ("podrt.runtime.pod.Pod.stop", "podrt.runtime.runtime.Runtime.stop_pods",
                      "podrt.runtime.stop.stop_members", "podrt.runtime.stop.clean_up"),
        (*STEPS, *GONE, PAIRS, SCRIPTS, GRAPHS[2],
         HERE + "test_stop_that_fails_for_one_stops_the_others_and_keeps_the_infra",
         "system/test_commands.py::test_stop_obeys_order_dependents_first",
         "system/test_pause.py::test_stop_leaves_paused_members_and_what_they_live_in")),
    Row(POD, "Pause", ("podrt.runtime.pod.Pod.pause", "podrt.runtime.runtime.Runtime.pause_pods"),
        (*GONE, PAIRS, SCRIPTS, STEPS[2], "system/test_pause.py::*",
         HERE + "test_pause_and_unpause_that_fail_for_one_do_the_others")),
    Row(POD, "Unpause", ("podrt.runtime.pod.Pod.unpause",
                         "podrt.runtime.runtime.Runtime.unpause_pods"),
        (*GONE, PAIRS, SCRIPTS, STEPS[2], "system/test_pause.py::*",
         HERE + "test_pause_and_unpause_that_fail_for_one_do_the_others")),
    Row(POD, "Restart", ("podrt.runtime.pod.Pod.restart",
                         "podrt.runtime.runtime.Runtime.restart_pods"),
        (*STEPS, *GONE, PAIRS, SCRIPTS, "system/test_restart.py::*",
         "unit/runtime/test_restart_blocked.py::*")),
    Row(POD, "Kill", ("podrt.runtime.pod.Pod.kill", "podrt.runtime.runtime.Runtime.kill_pods"),
        (*GONE, PAIRS, SCRIPTS, STEPS[2],
         HERE + "test_kill_that_fails_for_one_reaches_the_others_and_leaves_no_lock_held",
         HERE + "test_kill_skips_who_does_not_run_and_what_is_no_end_is_no_wish",
         "system/test_commands.py::test_kill_pod_signals_every_running_container")),
    Row(POD, "HasContainer", ("podrt.runtime.pod.Pod.has_container",),
        (*GONE, HERE + "test_members_are_listed_in_order_of_creation_infra_first")),
    Row(POD, "AllContainersByID", ("podrt.runtime.pod.Pod.container_ids",),
        (*GONE, HERE + "test_members_are_listed_in_order_of_creation_infra_first")),
    Row(POD, "AllContainers", ("podrt.runtime.pod.Pod.containers",),
        (*GONE, HERE + "test_members_are_listed_in_order_of_creation_infra_first")),
    Row(POD, "Status", ("podrt.runtime.pod.Pod.status",),
        (*GONE, HERE + "test_status_fails_as_a_whole_where_inspect_shows_unknown")),
    Row(POD, "Inspect", ("podrt.cli.shapes.pod_document",),
        (SCRIPTS, HERE + "test_status_fails_as_a_whole_where_inspect_shows_unknown",
         "system/test_listing.py::test_templates_show_what_the_records_and_the_kernel_say")),
    Row(RUNTIME, "NewPod", ("podrt.runtime.runtime.Runtime.create_pod",
                            "podrt.runtime.runtime.Runtime.new_pod",
                            "podrt.runtime.resolve.resolve_pod", "podrt.cgroups.policy.decide"),
        (STEPS[0], STEPS[2], SCRIPTS, "unit/runtime/test_resolve.py::*",
         "unit/cgroups/test_policy.py::*", "system/test_draft.py::*",
         HERE + "test_generated_name_that_is_taken_by_either_kind_is_generated_again",
         HERE + "test_generated_names_that_are_all_taken_end_in_an_error",
         HERE + "test_create_that_fails_gives_its_locks_back_and_tells_of_no_event",
         HERE + "test_lock_that_cannot_be_given_back_hides_no_error_of_a_create",
         HERE + "test_container_config_of_a_member_has_no_cgroup_parent_of_its_own",
         "system/test_commands.py::"
         "test_name_that_is_taken_is_refused_for_pods_and_containers_alike")),
    Row(RUNTIME, "AddInfra", ("podrt.runtime.draft.PodDraft.add_infra",),
        ("system/test_draft.py::*",)),
    Row(RUNTIME, "SavePod", ("podrt.runtime.draft.PodDraft.save",),
        ("system/test_draft.py::*",
         HERE + "test_create_that_fails_gives_its_locks_back_and_tells_of_no_event")),
    Row(RUNTIME, "removePod", ("podrt.runtime.pod.Pod.remove",
                               "podrt.runtime.runtime.Runtime.remove_pods",
                               "podrt.runtime.teardown.remove_pod"),
        (*STEPS, *GONE, PAIRS, SCRIPTS, "system/test_runs.py::*",
         HERE + "test_rm_names_all_that_are_in_the_way_and_touches_none",
         HERE + "test_rm_of_a_pod_with_containers_needs_to_be_told_to_remove_them",
         HERE + "test_rm_that_cannot_remove_a_container_stays_removing_and_is_resumed",
         HERE + "test_rm_that_cannot_remove_the_pod_s_cgroup_goes_on_and_says_so",
         HERE + "test_rm_that_cannot_limit_the_monitor_only_logs_it",
         HERE + "test_rm_that_cannot_free_a_lock_removes_the_pod_and_says_so",
         HERE + "test_rm_tells_of_its_end_once_and_after_everything_is_gone",
         "system/test_races.py::test_two_forced_removals_at_once_both_succeed")),
)  # fmt: skip
