"""Conversations as people have them, for looking at the admin page: real requests through the live application, with
pictures that are drawn here."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tests.brain import Asked, Script, Thinks, looks, says
from tests.conversing import recalls
from tests.eyes import Look, sees
from tests.live import House, assistant, data_url, function, text, tool_call, tool_result, user

SYSTEM = "You are a coding agent. Work in small steps, and look at the page after each change."


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def browser_shot(title: str, lines: tuple[str, ...], error: str = "", *, button: str = "Sign in") -> bytes:
    """A page in a browser."""
    image = Image.new("RGB", (1280, 800), "#eef1f6")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 1280, 54), fill="#dfe4ec")
    for index, colour in enumerate(("#ec6a5e", "#f4bf4f", "#61c554")):
        draw.ellipse((22 + 28 * index, 19, 38 + 28 * index, 35), fill=colour)
    draw.rounded_rectangle((140, 12, 1130, 42), 14, fill="#ffffff")
    draw.text((160, 17), "localhost:5173/login", font=_font(17), fill="#6b7280")
    draw.rounded_rectangle((390, 140, 890, 640), 18, fill="#ffffff", outline="#d5dae3", width=2)
    draw.text((440, 185), title, font=_font(38), fill="#111827")
    for index, words in enumerate(lines):
        top = 265 + 105 * index
        draw.text((440, top), words, font=_font(20), fill="#4b5563")
        draw.rounded_rectangle(
            (440, top + 30, 840, top + 76),
            8,
            fill="#f9fafb",
            outline="#d33a2c" if error and index else "#cbd2dc",
            width=2,
        )
    if error:
        draw.text((440, 480), error, font=_font(20), fill="#c62f21")
    draw.rounded_rectangle((440, 540, 840, 594), 10, fill="#2f5fd0")
    draw.text((600, 552), button, font=_font(24), fill="#ffffff")
    return _png(image)


def chart(values: tuple[int, ...], title: str) -> bytes:
    image = Image.new("RGB", (1000, 640), "#ffffff")
    draw = ImageDraw.Draw(image)
    draw.text((60, 36), title, font=_font(32), fill="#1b2230")
    for index, value in enumerate(values):
        left = 90 + index * 118
        draw.rectangle((left, 540 - value * 4, left + 72, 540), fill="#3f6fe0" if index % 2 else "#e08a2c")
        draw.text((left + 18, 552), f"W{index + 1}", font=_font(22), fill="#6b7280")
    draw.line((70, 540, 940, 540), fill="#9aa3b2", width=3)
    return _png(image)


def terminal(*lines: str) -> bytes:
    image = Image.new("RGB", (1100, 520), "#141821")
    draw = ImageDraw.Draw(image)
    for index, words in enumerate(lines):
        colour = "#ff8d83" if "FAIL" in words or "Error" in words else "#d5dcea"
        draw.text((40, 40 + 40 * index), words, font=_font(24), fill=colour)
    return _png(image)


def part(image: bytes, file: str) -> dict[str, Any]:
    """An image part in a form that brings a file name."""
    return {"type": "image_url", "image_url": {"url": data_url(image)}, "filename": file}


class Client:
    """Sends its whole history each time."""

    def __init__(self, house: House, session: str, agent: str = "claude-code/2.1", *, tools: bool = True) -> None:
        self.house = house
        self.history: list[dict[str, Any]] = [{"role": "system", "content": SYSTEM}]
        self._headers = {"x-session-id": session, "user-agent": agent}
        self._fields: dict[str, Any] = {"tools": [function("screenshot"), function("edit")]} if tools else {}

    async def ask(self, *messages: dict[str, Any], brain: tuple[Script, ...]) -> list[Any]:
        """What the brain was shown first."""
        self.house.brain.will(*brain)
        before = len(self.house.brain.asked)
        self.history += messages
        answer = await self.house.chat(*self.history, headers=self._headers, **self._fields)
        calls = [tool_call(call.id, call.name, call.arguments) for call in answer.calls]
        self.history.append(assistant(answer.text or None, *calls))
        return list(self.house.brain.asked[before].messages)


LOGIN = ("E-mail", "Password")


SEEN = {
    "third bar": "Seven bars, W1 to W7, titled “Orders”. The third bar (W3) is the tallest, at about 96.",
    "word by word": "A login form titled “Welcome back” with the fields E-mail and Password. Below the password field "
    "stands in red: “Unknown error (0x1F)”. The button says “Sign in”.",
    "failing test": "A terminal: `npm test -- login` fails in src/login.test.ts: “Error: expected 200, got 500”.",
    "Step 1": "The login form. In red below the password: “Wrong password”.",
    "Step 2": "The login form, both fields empty. No error is shown.",
    "Step 3": "The page greets “Hello, Ada” and offers a button “Continue”. No error is shown.",
}
"""What the eyes say, by words of the task."""


def _eyes(asked: Asked) -> Script:
    words = Look(asked).words
    return sees(next((said for task, said in SEEN.items() if task in words), "A page with a form."), after=0.15)


async def scene(house: House) -> None:
    """Two conversations; of the first some images are forgotten (`max_loaded` 4, `keep_loaded` 2)."""
    house.eyes.answers = _eyes
    other = Client(house, "report", "openwebui/0.6", tools=False)
    await other.ask(
        user(
            "What does this chart say about the third week?",
            part(chart((42, 58, 96, 61, 70, 84, 77), "Orders"), "orders.png"),
        ),
        brain=(
            says(looks(1, "Read the value of the third bar.")),
            says("The third week stands out: about 96 orders, more than in any other."),
        ),
    )
    client = Client(house, "login-page")
    await client.ask(
        user(
            "The login form refuses good passwords since this morning. Here is what I see, and the test run.",
            part(browser_shot("Welcome back", LOGIN, "Unknown error (0x1F)"), "Screenshot 2026-11-20 at 09.14.png"),
            part(terminal("$ npm test -- login", "FAIL  src/login.test.ts", "Error: expected 200, got 500"), "run.png"),
        ),
        brain=(
            says(
                Thinks("The user shows a form and a test run. I need the exact words of the error."),
                looks(1, "Which error message does the login form show, word by word?"),
            ),
            says("The form says “Unknown error (0x1F)”, so the server answered with something the page does not know."),
        ),
    )
    await client.ask(
        user("Yes. Fix it, and show me the page."),
        brain=(
            says(
                looks(2, "What does the failing test expect, and what did it get?"),
            ),
            says("The test expects 200 and gets 500. I change the handler and look at the page."),
        ),
    )
    for turn, (title, error) in enumerate(
        (("Welcome back", "Wrong password"), ("Welcome back", ""), ("Hello, Ada", "")), start=1
    ):
        shot = browser_shot(title, LOGIN, error, button="Continue" if turn == 3 else "Sign in")
        call = tool_call(f"call_shot_{turn}", "screenshot")
        client.history += [assistant(None, call)]
        await client.ask(
            tool_result(f"call_shot_{turn}", [text("localhost:5173/login"), part(shot, f"step-{turn}.png")]),
            brain=(
                says(looks(2 + turn, f"Step {turn}: is an error shown, and which?")),
                says(("An error is still there.", "The error is gone.", "Signed in: the page greets Ada.")[turn - 1]),
            ),
        )
    await client.ask(
        user("What did the very first screenshot say again?"),
        brain=(says(recalls(1)), says("It said “Unknown error (0x1F)”.")),
    )
    await client.ask(
        user("Thank you. Is [Image #3] the one with the wrong password?"),
        brain=(says("Yes, #3 is."),),
    )
