"""What forms do.  Each checks its token, does what the API does, leaves the same line in the audit log, and goes back
to where it was sent from: loading that page anew does nothing again."""

from __future__ import annotations

from typing import Any

from router.admin.api import audited, number_of
from router.admin.door import Call, Handler, Reply
from router.admin.models import Action, Task
from router.admin.page.render import query_string
from router.admin.page.sign_in import ours
from router.response import unless_gone


async def _form(call: Call) -> dict[str, str]:
    """Raises `Forbidden` where it is none of ours."""
    given = await call.form()
    call.auth.check_change(call.asking, call.who, given.get("csrf", ""))
    return given


def _back(to: str, **said: Any) -> Reply:
    path, _, query = to.partition("?")
    told = query_string({}, **said).removeprefix("?")
    return Reply(status=303, headers={"location": f"{path}?{query}&{told}" if query else f"{path}?{told}"})


def _place(call: Call) -> str:
    return f"/admin/conversations/{call.path['id']}"


def doing(action: Action) -> Handler:
    async def handler(call: Call) -> Reply:
        given = await _form(call)
        number = number_of(call)
        await audited(call, action, lambda: call.admin.do(action, call.path["id"], number))
        return _back(ours(given.get("back", ""), _place(call)), done=action, image=number)

    return handler


async def analyze(call: Call) -> Reply:
    given = await _form(call)
    number = number_of(call)
    task = Task.model_validate({"task": given.get("task", "").replace("\r\n", "\n")}).task

    async def look() -> None:
        await call.admin.analyze(call.path["id"], number, task)

    await audited(call, "analyze", lambda: unless_gone(call.receive, look()))
    there = f"{_place(call)}/images/{number}"
    return _back(ours(given.get("back", ""), there), done="analyze", image=number)


async def delete_image(call: Call) -> Reply:
    await _form(call)
    number = number_of(call)
    await audited(call, "delete", lambda: call.admin.delete_image(call.path["id"], number))
    return _back(_place(call), done="delete", image=number)


async def delete_conversation(call: Call) -> Reply:
    await _form(call)
    await audited(call, "delete", lambda: call.admin.delete_conversation(call.path["id"]))
    return _back("/admin", done="delete-conversation")
