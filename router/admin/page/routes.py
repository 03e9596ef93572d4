"""The addresses of the pages."""

from __future__ import annotations

from starlette.routing import Route

from router.admin.auth import Auth
from router.admin.door import AdminDoor, Call, Handler, Reply
from router.admin.errors import NotFound
from router.admin.page import actions, sign_in, views
from router.admin.page.assets import asset
from router.admin.page.render import error_page

_ONE = "/admin/conversations/{id}"
_IMAGE = _ONE + "/images/{n}"


async def _nothing_here(call: Call) -> Reply:
    raise NotFound("there is nothing at this address of /admin")


def routes(auth: Auth) -> list[Route]:
    """In the order in which they are to be tried; the last takes all that the API has not."""

    def door(**handlers: Handler) -> AdminDoor:
        return AdminDoor(auth, handlers, page=True, checks_forms=True, show_error=error_page)

    def open_door(**handlers: Handler) -> AdminDoor:
        return AdminDoor(auth, handlers, open_to_all=True, show_error=error_page)

    every = dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"), _nothing_here)
    return [
        Route("/admin/sign-in", open_door(GET=sign_in.form, POST=sign_in.sign_in)),
        Route("/admin/sign-out", door(POST=sign_in.sign_out)),
        Route("/admin/assets/{digest}/{name}", open_door(GET=asset)),
        Route("/admin", door(GET=views.conversations)),
        Route("/admin/state", door(GET=views.state)),
        Route("/admin/conversations.csv", door(GET=views.conversations_csv)),
        Route(_ONE, door(GET=views.conversation)),
        Route(_ONE + "/images.csv", door(GET=views.images_csv)),
        Route(_ONE + "/prompt", door(GET=views.prompt)),
        Route(_ONE + "/prompt.json", door(GET=views.prompt_json)),
        Route(_ONE + "/delete", door(GET=views.confirm_conversation, POST=actions.delete_conversation)),
        Route(_IMAGE, door(GET=views.image)),
        Route(_IMAGE + "/picture", door(GET=views.picture)),
        *(Route(f"{_IMAGE}/{name}", door(POST=actions.doing(name))) for name in ("forget", "load", "pin", "unpin")),
        Route(_IMAGE + "/analyze", door(POST=actions.analyze)),
        Route(_IMAGE + "/delete", door(GET=views.confirm_image, POST=actions.delete_image)),
        Route("/admin/{rest:path}", open_door(**every)),
    ]
