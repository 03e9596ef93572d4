// Pages work without this.  It keeps them up to date, and adds keys.
"use strict";

// Live: an event says that something changed and where, so the page is asked for again, and those of its parts that
// are others now take their places.  What somebody has opened, and where he is, stays.

const live = document.querySelector(".live:not([data-live-off])");
const seen = new Map();
for (const part of liveParts(document)) seen.set(part.id, part.outerHTML);

function liveParts(page) {
  const rows = page.querySelectorAll("[data-row][id]");
  return [...page.querySelectorAll("[data-live]"), ...rows].filter((part) => part.id);
}

async function renew(address = location.href) {
  const answer = await fetch(address, { headers: { accept: "text/html" }, cache: "no-store" });
  if (answer.status === 401 || answer.status === 404) return location.reload();
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const fresh of page.querySelectorAll("[data-live]")) {
    const old = document.getElementById(fresh.id);
    if (!old || fresh.outerHTML === seen.get(fresh.id)) continue;
    if (fresh.hasAttribute("data-rows") && sameRows(old, fresh)) {
      for (const row of fresh.querySelectorAll("[data-row][id]")) {
        if (row.outerHTML !== seen.get(row.id)) put(document.getElementById(row.id), row);
      }
      seen.set(fresh.id, fresh.outerHTML);
    } else put(old, fresh);
  }
}

function sameRows(old, fresh) {
  const ids = (part) => [...part.querySelectorAll("[data-row][id]")].map((row) => row.id).join(" ");
  return ids(old) === ids(fresh) && ids(old) !== "";
}

function put(old, fresh) {
  seen.set(fresh.id, fresh.outerHTML);
  for (const row of fresh.querySelectorAll("[data-row][id]")) seen.set(row.id, row.outerHTML);
  for (const box of old.querySelectorAll("details[open][id]")) {
    const same = fresh.querySelector(`#${CSS.escape(box.id)}`);
    if (same) same.open = true;
  }
  for (const field of old.querySelectorAll("textarea[id]")) {
    const same = fresh.querySelector(`#${CSS.escape(field.id)}`);
    if (same && field.value !== field.defaultValue) same.value = field.value;
  }
  for (const picture of fresh.querySelectorAll("img")) {
    const same = [...old.querySelectorAll("img")].find((one) => one.getAttribute("src") === picture.getAttribute("src"));
    if (same) picture.replaceWith(same); // or it would be fetched anew, and flicker
  }
  const focus = old.contains(document.activeElement) ? document.activeElement : null;
  const at = focus && (focus.id ? `#${CSS.escape(focus.id)}` : focus.classList.contains("go") ? ".go" : "");
  old.replaceWith(document.adoptNode(fresh));
  if (at) (document.querySelector(`#${CSS.escape(fresh.id)} ${at}`) || document.querySelector(at))?.focus({ preventScroll: true });
}

if (live && "EventSource" in window) {
  const words = live.querySelector(".live-words");
  const pause = live.querySelector(".live-pause");
  const from = live.dataset.liveFrom;
  const address = "/admin/api/events" + (from ? `?conversation=${encodeURIComponent(from)}` : "");
  let source = null, due = 0, busy = false, again = false, paused = false;

  const show = (said, on) => { words.textContent = said; live.classList.toggle("on", on); };
  const soon = () => {
    if (!due) due = setTimeout(async () => {
      due = 0;
      if (busy) { again = true; return; }
      busy = true;
      try { await renew(); } catch { /* the next event asks again */ }
      busy = false;
      if (again) { again = false; soon(); }
    }, 250);
  };
  const open = () => {
    if (source || paused) return;
    source = new EventSource(address);
    source.addEventListener("ready", () => {
      show("live", true);
      soon(); // what happened while nobody listened: also since this page was written
    });
    const kinds = ["conversation", "image", ...(document.getElementById("prompt") ? ["prompt"] : [])];
    for (const kind of kinds) source.addEventListener(kind, soon);
    source.addEventListener("error", () => show("reconnecting", false));
  };
  const close = () => { clearTimeout(due); due = 0; source?.close(); source = null; };
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    if (paused) { close(); show("paused", false); } else { show("connecting", false); open(); }
  });
  // A browser opens six connections to a host, and a stream is one of them.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close(); else open();
  });
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  live.hidden = false;
  open();
  // No event tells of brains, the queue and the store.  To ask for the whole page would count as use of what it shows.
  setInterval(() => { if (source) renew("/admin/state").catch(() => {}); }, 30_000);
}

// An address that is loaded anew or sent to somebody should not say again what was done.

if (/[?&]done=/.test(location.search)) {
  const address = new URL(location.href);
  address.searchParams.delete("done");
  address.searchParams.delete("image");
  history.replaceState(null, "", address);
}

// Keys.

const keys = document.querySelector(".keys");
if (keys) keys.hidden = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const search = document.getElementById("q");
  if (event.key === "/" && search) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "j" || event.key === "k") {
    const rows = [...document.querySelectorAll("[data-row]")];
    const at = rows.findIndex((row) => row.contains(document.activeElement));
    const next = rows[at < 0 ? (event.key === "j" ? 0 : rows.length - 1) : at + (event.key === "j" ? 1 : -1)];
    (next?.querySelector(".go") || next)?.focus();
  }
});
