"""`approvals`: what waits for an answer, and answering it."""

import json
from typing import Annotated, Any

import typer

from supervisor.cli import output
from supervisor.cli.invocation import Invocation, with_options
from supervisor.cli.nouns import ProjectOption, noun
from supervisor.errors import ErrorCode, SupervisorError

Thread = Annotated[str | None, typer.Option("--thread", help="Only this thread's.")]
ApprovalId = Annotated[str, typer.Argument(metavar="ID", help="As `approvals` shows it.")]
Decision = Annotated[
    str | None,
    typer.Argument(metavar="DECISION", help="accept, acceptForSession, decline or cancel."),
]
Texts = Annotated[
    list[str] | None,
    typer.Option("--text", help="The answer to a question; once for each, in order."),
]
Result = Annotated[
    str | None, typer.Option("--result", help="The whole result as codex has it, JSON.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = noun(app, "approvals", "What waits for an answer: list, answer.")
    group.command("list")(list_approvals)
    group.command("answer")(answer_approval)


@with_options
def list_approvals(
    invocation: Invocation, *, project: ProjectOption = None, thread: Thread = None
) -> None:
    """What waits: approvals, questions, calls of dynamic tools; oldest first."""
    from supervisor.cli.calling import called, project_of
    from supervisor.cli.listing import asked

    params: dict[str, object] = {} if thread is None else {"threadId": thread}
    found = called(invocation.settings(), project_of(project), "listApprovals", params)
    if invocation.json:
        output.document(found)
    elif found["approvals"]:
        rows = [(a["approvalId"], a["method"], a["threadId"], asked(a)) for a in found["approvals"]]
        output.table(("id", "asks", "thread", "about"), rows)
    else:
        output.note("nothing waits for an answer")


@with_options
def answer_approval(
    invocation: Invocation,
    approval_id: ApprovalId,
    decision: Decision = None,
    *,
    text: Texts = None,
    result: Result = None,
    project: ProjectOption = None,
) -> None:
    """Answer one, by a decision, by --text or by --result. The first answer wins."""
    from supervisor.api.client import RpcClient
    from supervisor.cli.calling import connected, project_of

    if sum((decision is not None, bool(text), result is not None)) != 1:
        raise typer.BadParameter("give one of DECISION, --text and --result")
    name = project_of(project)

    async def answer(client: RpcClient) -> None:
        params: dict[str, object] = {"approvalId": approval_id}
        if decision is not None:
            params["decision"] = decision
        elif result is not None:
            params["result"] = _object(result)
        else:
            params["result"] = await _said(client, name, approval_id, text or [])
        await client.call(name, "answerApproval", params)

    connected(invocation.settings(), answer)
    if invocation.json:
        output.document({"approvalId": approval_id, "answered": True})
    else:
        output.note(f"answered {approval_id}")


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"--result is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("--result is not a JSON object")
    return value


async def _said(client: Any, project: str, approval_id: str, texts: list[str]) -> dict[str, Any]:
    """The result for questions: which they are stands in the approval."""
    from supervisor.cli.prompting import questions, user_input

    found = await client.call(project, "listApprovals")
    for approval in found["approvals"]:
        if approval["approvalId"] == approval_id:
            asked = questions(approval["params"])
            break
    else:
        raise SupervisorError(ErrorCode.APPROVAL_UNKNOWN, f"{approval_id} does not wait")
    if len(asked) != len(texts):
        raise typer.BadParameter(f"{approval_id} has {len(asked)} questions: one --text for each")
    pairs = []
    for question, text in zip(asked, texts, strict=True):
        answer = question.answer(text)
        if answer is None:
            raise typer.BadParameter(f"{text!r} is none of: {', '.join(question.options)}")
        pairs.append((question.id, answer))
    return user_input(pairs)
