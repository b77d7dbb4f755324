"""Every kind of line and of control request of the CLI, and what becomes of it: the table behind docs/cli-lines.md.

The kinds are those of the schemas inside the program, 2.1.330 and 2.1.332. A kind of `system` lines is named
`system/SUBTYPE`.
"""

from __future__ import annotations

from collections.abc import Mapping

SINCE_2_1_332 = frozenset({"decide_held_peer_message", "set_peer_delivery"})

CARRIED: Mapping[str, str] = {
    "assistant": "`message` and `tool_use`; about an API error: `error`, or a `notice` where the turn goes on",
    "user": "`tool_result`; the CLI's notes to the model become notices (`refused`, `reply_incomplete` ...) or nothing",
    "stream_event": "`delta` and `thinking`; a reply that was cut: `max_tokens`, `context_window`",
    "result": "`complete`, after an `error` where it failed",
    "control_request": "`permission_request`, by the table below",
    "control_cancel_request": "`permission_resolved`",
    "control_response": "the end of a request of ours",
    "rate_limit_event": "`notice` `rate_limit`",
    "conversation_reset": "`notice` `cleared`",
    "tombstone": "a `message` without content",
    "system/init": "the mode and the model in force; `notice` `mcp_server_failed`; begins a turn of the agent's own",
    "system/status": "the mode in force; `notice` `compacting`, `compact_failed`",
    "system/api_retry": "`notice` `api_retry`",
    "system/compact_boundary": "`notice` `compacted`",
    "system/informational": "`notice` `informational`",
    "system/model_fallback": "`notice` `model_fallback`",
    "system/model_consent_fallback": "`notice` `model_fallback`",
    "system/model_refusal_fallback": "`notice` `refusal_fallback`; an empty `message` for what is taken back",
    "system/task_started": "`task`, for work in the background; the name of a subagent (`subagent`)",
    "system/task_progress": "`task`",
    "system/task_notification": "`task`; the words of the turn that its end begins",
}
"""Kinds of lines that clients hear of."""

USED: Mapping[str, str] = {
    "command_lifecycle": "the begin and end of a query, and what becomes of one that steers (`notice` `steered`)",
    "system/model_refusal_no_fallback": "the reason in the text of the error `refusal`",
}
"""Kinds of lines that have no event of their own, and what they are used for."""

DROPPED: Mapping[str, str] = {
    "system/background_tasks_changed": "each change has a line of its own",
    "system/task_updated": "said again by `system/task_notification`",
    "system/thinking_tokens": "an estimate; the thinking itself is carried",
    "system/session_title_changed": "the session has a title of its own in Portico",
    "system/control_request_progress": "progress of a request that Portico does not make",
    "system/permission_denied": "said by the `details` of the `tool_result`",
}
"""Kinds of lines that are not carried, and why."""

RECORDED = frozenset({"rate_limit_event", "tombstone", "system/model_consent_fallback"})
"""Kinds that are carried, and that no scripted model brings forth: their tests replay lines."""

NOT_SEEN: Mapping[str, tuple[str, ...]] = {
    "for the CLI's own screen": (
        *("set_expanded_view", "open_message_selector", "set_in_progress_tool_use_ids", "hint_clears", "stream_mode"),
        *("response_length", "compact_progress", "api_metrics", "apply_flag_settings", "os_notification"),
        *("refusal_continuation", "attachment", "active_goal", "system/notification", "system/turn_duration"),
        *("system/thinking", "system/api_error", "system/memory_saved", "system/agents_killed", "system/away_summary"),
        *("system/file_snapshot", "system/stop_hook_summary", "system/permission_retry", "system/scheduled_task_fire"),
        *("system/feedback_draft_queued", "system/local_command_output"),
    ),
    "for plugins that draw in a client of Anthropic's": (
        *("system/ui_invalidate", "system/ui_log", "system/ui_notify", "system/ui_notify_cancel", "system/ui_toast"),
        *("system/ui_status", "system/ui_placed", "system/ui_panes", "system/ui_scroll", "system/ui_focus"),
    ),
    "for Anthropic's own hosts (cloud, desktop, editors)": (
        *("autocompact_state", "system/session_metadata", "system/inherited_asks_settled", "system/late_allow_not_run"),
        *("system/turn_handoff_available", "system/worker_shutting_down", "system/code_change_published"),
        *("system/vcs_state_changed", "system/shell_cwd", "system/dev_intent", "system/cloud_session_delta"),
        *("system/upgrade_relay_marker", "system/task_list_statuses", "system/instruction_size_warning"),
        *("system/peer_message_hold", "system/post_turn_summary", "system/task_summary", "system/files_persisted"),
        *("system/file_attachments_missing", "system/turn_preempted", "system/permission_check_status"),
        *("session_notice", "queued_notification", "bash_command", "system/per_turn_effort_changed"),
    ),
    "only with options or variables that Portico does not set": (
        *("system/hook_started", "system/hook_progress", "system/hook_response", "prompt_suggestion"),
        *("tool_use_summary", "transcript_mirror", "system/mirror_error", "system/session_state_changed"),
        *("system/plugin_install", "system/memory_recall", "auth_status"),
    ),
    "about what the agent can do, which clients ask for (`GET .../commands`)": ("system/commands_changed",),
    "an elicitation by URL, whose request is answered before": ("system/elicitation_complete",),
    "the pulse of a tool or of a long request": ("tool_progress", "keep_alive"),
    "said as the process ends, when nothing can be done": ("system/session_writes_lost",),
}
"""Kinds of lines that never came on a run, by what they are for. They would be dropped."""

ASKED: Mapping[str, str] = {
    "can_use_tool": "`permission_request`",
    "elicitation": "`permission_request` of the kind `elicitation`",
    "hook_callback": "answered by Portico itself: it checks the permission mode of subagents",
}
"""Control requests of the CLI that are answered. All others get an error, which the CLI takes as a no."""

ASKED_NOT_SEEN: Mapping[str, tuple[str, ...]] = {
    "for plugins that draw in a client of Anthropic's": (
        *("ui_copy", "ui_prompt_read", "ui_prompt_fill", "ui_prompt_paint", "ui_prompt_suggest", "ui_read_selection"),
    ),
    "for Anthropic's own hosts": (
        *("remote_tool_call", "remote_plumbing_call", "remote_tools_probe", "remote_tools_reannounce"),
        *("remote_control_work_secret", "oauth_token_refresh", "host_auth_token_refresh"),
    ),
    "a dialog of a tool; its tools ask otherwise where nobody draws it": ("request_user_dialog",),
    "for MCP servers inside the host's program; Portico has none": ("mcp_message",),
}

MADE: Mapping[str, str] = {
    "initialize": "hooks, system prompts; `GET .../commands`",
    "interrupt": "`POST .../interrupt`",
    "set_model": "`PATCH` of `model`",
    "set_permission_mode": "`PATCH` of `permission_mode`",
    "get_context_usage": "`GET .../context`",
    "mcp_status": "`GET .../mcp`",
    "list_models": "`GET /claude/models`",
    "rewind_files": "`POST .../rewind`",
    "reload_skills": "warms up an agent that was started ahead",
    "stop_task": "`POST .../tasks/{id}/stop`",
}
"""Control requests that Portico makes, or may make."""

NOT_MADE: Mapping[str, tuple[str, ...]] = {
    "the session's own data has it": (
        *("rename_session", "get_session_cost", "get_usage", "get_status", "export_conversation", "get_settings"),
        *("list_permission_rules", "get_plan", "get_task_output", "get_workspace_diff"),
    ),
    "fixed at the start of a session": (
        *("set_cwd", "set_max_thinking_tokens", "apply_flag_settings", "update_settings", "mcp_set_servers"),
        *("register_repo_root", "mcp_toggle", "mcp_reconnect", "mcp_call", "mcp_read_resource"),
        *("set_mcp_permission_mode_override", "reload_plugins", "reload_output_styles", "reload_connectors"),
        *("seed_read_state", "add_directory", "channel_enable"),
    ),
    "not needed: Portico queues and withdraws queries itself": (
        *("cancel_async_message", "background_tasks", "update_queued_message"),
    ),
    "nobody has asked for it yet": ("get_hooks_listing", "file_suggestions"),
    "files of the workspace are read by the agent alone": ("read_file", "list_directory"),
    "it would send data to Anthropic": (
        *("submit_feedback", "submit_survey_feedback", "message_rated", "log_host_events", "dictate"),
        *("list_cloud_sessions", "get_cloud_session", "get_cloud_session_transcript", "update_cloud_session"),
    ),
    "for the CLI's dialogs, or for Anthropic's own hosts": (
        *("set_color", "get_memory_dialog", "get_skills_dialog", "get_chrome_dialog", "get_chrome_browsers"),
        *("select_chrome_browser", "set_chrome_browser_hints", "get_sandbox_dialog", "get_binary_version"),
        *("set_prompt_suggestions_paused", "set_message_waiting", "set_has_subscribers", "prompt_draft_activity"),
        *("claim_session", "turn_handoff", "comparison_fork", "start_shell_task", "register_device_hooks"),
        *("upload_device_hook_template", "remote_tools_announce", "decide_held_peer_message", "set_peer_delivery"),
        *("mcp_tasks_changed", "poll_event", "remote_control", "set_proactivity_level", "stage_file"),
        "ultrareview_launch",
    ),
    "for plugins that draw in a client of Anthropic's": (
        *("ui_attach", "ui_detach", "ui_render", "ui_press", "ui_client_module", "ui_input", "ui_select", "ui_panes"),
        *("ui_pane_show", "ui_pane_focus", "ui_close", "ui_scroll", "ui_focus", "ui_prompt_edit"),
        *("ui_prompt_autocomplete", "ui_client_press", "ui_client_fault", "ui_message"),
    ),
    "a process ends by the end of its input": ("end_session",),
    "a fork is a process of its own": ("fork_conversation", "rewind_conversation"),
    "a question beside the conversation would be a turn that no history has": ("side_question",),
    "sessions have credentials by the operator alone": (
        *("claude_authenticate", "claude_oauth_callback", "claude_oauth_wait_for_completion", "mcp_authenticate"),
        *("mcp_clear_auth", "mcp_oauth_callback_url"),
    ),
}
"""Control requests that Portico does not make, by the reason."""


def not_seen() -> dict[str, str]:
    return {name: why for why, names in NOT_SEEN.items() for name in names}


def all_lines() -> set[str]:
    return {*CARRIED, *USED, *DROPPED, *not_seen()}


def all_requests() -> set[str]:
    lists = (*NOT_MADE.values(), *ASKED_NOT_SEEN.values())
    return {*ASKED, *MADE, *(name for names in lists for name in names)}
