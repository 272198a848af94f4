"""What may be done with every request of the protocol: written by hand, one name a line.

A test fails when a method of the generated table has no policy here, or a policy no method.
What each policy means is at `supervisor.protocol.methods.Policy`. In doubt, refuse: a method can
be opened later, but a command that has run has run.
"""

from typing import Final

READ: Final = """
    account/bedrock/checkGovCloudRequirements
    account/rateLimits/read
    account/usage/read
    account/workspaceMessages/read
    app/installed
    app/list
    app/read
    collaborationMode/list
    configRequirements/read
    experimentalFeature/list
    mcpServerStatus/list
    memory/status
    model/list
    modelProvider/capabilities/read
    project/list
    project/read
    remoteControl/status/read
    thread/attachment/list
    thread/attachmentOwner/list
    thread/backgroundTerminals/list
    thread/goal/get
    thread/items/list
    thread/items/read
    thread/list
    thread/loaded/list
    thread/queue/list
    thread/read
    thread/realtime/listVoices
    thread/search
    thread/searchOccurrences
    thread/timeline/list
    thread/turns/list
    threadSection/list
    windowsSandbox/readiness
""".split()

ACT: Final = """
    review/start
    thread/archive
    thread/attachment/add
    thread/attachment/remove
    thread/backgroundTerminals/clean
    thread/backgroundTerminals/terminate
    thread/compact/start
    thread/decrement_elicitation
    thread/delete
    thread/goal/clear
    thread/goal/set
    thread/increment_elicitation
    thread/memoryMode/set
    thread/metadata/update
    thread/name/set
    thread/prediction/request
    thread/queue/delete
    thread/queue/reorder
    thread/queue/start
    thread/readState/update
    thread/revert
    thread/section/move
    thread/unarchive
    threadSection/create
    threadSection/delete
    threadSection/update
    turn/interrupt
""".split()

# Each can widen what a turn may do (config, modelProvider, sandbox, permissions, approvals),
# or says whose turn it is (clientUserMessageId, responsesapiClientMetadata).
REWRITE: Final = """
    thread/fork
    thread/queue/add
    thread/queue/update
    thread/resume
    thread/settings/update
    thread/start
    turn/settings/update
    turn/start
    turn/steer
""".split()

# Reads whose params name directories, or, for account/read, can spend a single-use token.
REWRITE_READ: Final = """
    account/read
    fuzzyFileSearch
    fuzzyFileSearch/sessionStart
    fuzzyFileSearch/sessionStop
    fuzzyFileSearch/sessionUpdate
    hooks/list
    permissionProfile/list
    plugin/installed
    skills/list
""".split()

# They act on the whole app-server, show its configuration with what it holds, spend money, or
# run something outside the sandbox that at least shows in the thread.
OPERATOR: Final = """
    account/gatewayOAuth/read
    account/rateLimitResetCredit/consume
    account/sendAddCreditsNudgeEmail
    command/exec
    command/exec/resize
    command/exec/terminate
    command/exec/write
    config/mcpServer/reload
    config/read
    environment/info
    environment/status
    experimentalFeature/enablement/set
    mcpServer/resource/read
    mcpServer/tool/call
    memory/reset
    plugin/list
    plugin/read
    plugin/search
    plugin/share/list
    plugin/skill/read
    project/create
    project/delete
    project/import
    project/move
    project/update
    rollout/compress
    server/diagnostics
    skills/config/write
    thread/approveGuardianDeniedAction
    thread/inject_items
    thread/shellCommand
""".split()

# Credentials are the supervisor's business; files and processes have no thread to be audited in;
# the rest brings in code or configuration, or lets the conversation out by another door.
REFUSE: Final = """
    account/bedrock/discover
    account/bedrock/setup
    account/gatewayOAuth/cancel
    account/gatewayOAuth/login
    account/login/cancel
    account/login/start
    account/logout
    config/batchWrite
    config/value/write
    environment/add
    externalAgentConfig/detect
    externalAgentConfig/import
    externalAgentConfig/import/readHistories
    externalAgentConfig/import/recordHistory
    feedback/upload
    fs/copy
    fs/createDirectory
    fs/getMetadata
    fs/readDirectory
    fs/readFile
    fs/remove
    fs/unwatch
    fs/watch
    fs/writeFile
    marketplace/add
    marketplace/remove
    marketplace/upgrade
    mcpServer/event/stream/start
    mcpServer/event/stream/stop
    mcpServer/oauth/login
    mock/experimentalMethod
    plugin/install
    plugin/reconcile
    plugin/share/checkout
    plugin/share/delete
    plugin/share/save
    plugin/share/updateTargets
    plugin/uninstall
    process/kill
    process/resizePty
    process/spawn
    process/writeStdin
    remoteControl/client/list
    remoteControl/client/revoke
    remoteControl/disable
    remoteControl/enable
    remoteControl/pairing/start
    remoteControl/pairing/status
    skills/extraRoots/set
    thread/realtime/appendAudio
    thread/realtime/appendSpeech
    thread/realtime/appendText
    thread/realtime/start
    thread/realtime/stop
    userVerification/cancel
    userVerification/delete
    userVerification/enroll
    userVerification/status
    userVerification/verify
    windowsSandbox/setupStart
""".split()

# One handshake and one set of subscriptions upstream are shared by all clients: the supervisor
# answers these for each of them.
OWN: Final = """
    initialize
    thread/unsubscribe
""".split()

ASK: Final = """
    applyPatchApproval
    execCommandApproval
    item/commandExecution/requestApproval
    item/fileChange/requestApproval
    item/permissions/requestApproval
    item/tool/requestUserInput
    mcpServer/elicitation/request
""".split()

TOOL: Final = ["item/tool/call"]

CLOCK: Final = ["currentTime/read"]

# Both ask for a secret.
REFUSE_SERVER: Final = ["account/chatgptAuthTokens/refresh", "attestation/generate"]

OWN_NOTIFICATION: Final = ["initialized"]
