// The page's script: loads parts of the page, which the server makes, and sends forms. It makes no HTML of its own.
import { bodyOf, dropImage, previewImage } from "/ui/predict.js";
import { copyAs } from "/ui/copy.js";
import { moveByKey, panBy, zoomBy } from "/ui/graph.js";

const PARTS = "/ui/parts/";
// A part that is shown, with its parameters.
const PART = /^[a-z]+(\?|$)/;
const SECRET = "x-layerserve-page";
const TOKEN = "layerserve-token";
// Statuses after which a part is asked for again: no answer, too many requests, a server that starts or stops.
const TEMPORARY = [0, 429, 503];
const main = document.getElementById("main");
const status = document.getElementById("status");
let secret = document.querySelector('meta[name="page-secret"]').content;

class Refused extends Error {
  constructor(text, code) {
    super(text);
    this.code = code;
  }
}

async function send(path, options) {
  const headers = new Headers(options.headers);
  headers.set(SECRET, secret);
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.set("authorization", `Bearer ${token}`);
  try {
    return await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch {
    throw new Refused("the server doesn't answer", 0);
  }
}

// The secret is of the server's process: after a restart it is in the frame, read anew.
async function freshSecret() {
  const old = secret;
  const reply = await send("/ui", {});
  const frame = new DOMParser().parseFromString(await reply.text(), "text/html");
  secret = frame.querySelector('meta[name="page-secret"]')?.content ?? secret;
  return secret !== old;
}

async function ask(path, options = {}) {
  let reply = await send(path, options);
  if (reply.status === 403 && options.method === "POST" && (await freshSecret())) reply = await send(path, options);
  if (reply.ok) return reply.text();
  let text = `the server answers with status ${reply.status}`;
  try {
    text = (await reply.json()).error;
  } catch {
    // A proxy's error, which isn't JSON.
  }
  throw new Refused(text, reply.status);
}

function nodesOf(html) {
  return new DOMParser().parseFromString(html, "text/html").body.childNodes;
}

function complaint(error) {
  if (!(error instanceof Error)) throw error;
  const line = document.createElement("p");
  line.className = "error";
  line.setAttribute("role", "alert");
  line.textContent = error.message;
  if (error.code === 401) document.getElementById("access").open = true;
  return line;
}

// Whether a form in it is being filled in: then it isn't replaced.
function inUse(element) {
  return [...element.querySelectorAll("input:not([type=hidden]), select, textarea")].some(
    (one) => one === document.activeElement || ("defaultValue" in one && one.value !== one.defaultValue)
  );
}

// On narrow screens each cell has the head of its column before it.
function labelCells(element) {
  for (const table of element.querySelectorAll("table.cards")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent);
    for (const cell of table.querySelectorAll("tbody :is(th, td)")) {
      cell.dataset.label = heads[cell.cellIndex] ?? "";
      cell.classList.toggle("blank", !cell.textContent.trim());
    }
  }
}

function replace(element, nodes) {
  const focusable = "a, button, summary, [tabindex]";
  const at = [...element.querySelectorAll(focusable)].indexOf(document.activeElement);
  element.replaceChildren(...nodes);
  labelCells(element);
  if (at >= 0) element.querySelectorAll(focusable)[at]?.focus({ preventScroll: true });
  for (const part of element.querySelectorAll("[data-part]")) load(part);
}

async function load(element, force = false) {
  clearTimeout(element.timer);
  const part = element.dataset.part;
  let seconds = Number(element.dataset.every);
  try {
    const html = await ask(PARTS + part);
    if (element.dataset.part !== part || !element.isConnected) return;
    if (force || !inUse(element)) replace(element, nodesOf(html));
  } catch (error) {
    if (element.dataset.part !== part || !element.isConnected) return;
    element.querySelector(":scope > .error[role=alert]")?.remove();
    // Others ask as well: what is shown stays until the next answer.
    if (error.code !== 429 || !element.hasChildNodes()) element.prepend(complaint(error));
    if (TEMPORARY.includes(error.code)) seconds ||= 3;
  }
  if (seconds) {
    const again = () => (document.hidden ? (element.timer = setTimeout(again, 1000)) : load(element));
    element.timer = setTimeout(again, seconds * 1000);
  }
}

// The address after "#" is the part that the page shows. A link of another site may have a path there that leads out of
// the parts, to replies whose text would be taken for HTML.
async function show() {
  const wanted = location.hash.slice(1);
  const part = PART.test(wanted) ? wanted : "models";
  status.replaceChildren();
  main.replaceChildren();
  main.dataset.part = part;
  main.dataset.every = /^(runs|sweeps|sweep|models)\b/.test(part) ? 5 : "";
  for (const link of document.querySelectorAll("header nav a")) {
    const current = link.hash.slice(1) === part.split("?")[0];
    current ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  await load(main, true);
  const title = main.querySelector("h1");
  document.title = title ? `${title.textContent.trim()} · layerserve` : "layerserve";
  main.focus({ preventScroll: true });
}

async function change(form, submitter) {
  if (form.dataset.confirm && !confirm(form.dataset.confirm)) return;
  submitter.disabled = true;
  status.replaceChildren();
  try {
    const body = new URLSearchParams(new FormData(form));
    status.replaceChildren(...nodesOf(await ask(PARTS + form.dataset.post, { method: "POST", body })));
    for (const part of main.querySelectorAll("[data-part]")) load(part, true);
  } catch (error) {
    status.replaceChildren(complaint(error));
  }
  submitter.disabled = false;
}

async function answer(form, part, parameters) {
  const shown = document.getElementById("answer");
  const fields = new URLSearchParams({ row: form.querySelector("#row").value || 0, ...parameters });
  try {
    const options = { method: "POST", ...(await bodyOf(form)) };
    replace(shown, nodesOf(await ask(`${PARTS}${part}&${fields}`, options)));
  } catch (error) {
    shown.replaceChildren(complaint(error));
  }
}

async function explain(button) {
  const [target, to] = ["#target", "#to"].map((one) => button.form.querySelector(one).value);
  button.disabled = true;
  await answer(button.form, button.dataset.explain, { target, to });
  button.disabled = false;
}

async function copy(button) {
  const shown = document.getElementById("snippet");
  const said = document.getElementById("copied");
  try {
    shown.textContent = await copyAs(button.dataset.copy, button.form, Boolean(sessionStorage.getItem(TOKEN)));
    shown.hidden = false;
  } catch (error) {
    shown.hidden = true;
    said.replaceChildren(complaint(error));
    return;
  }
  try {
    await navigator.clipboard.writeText(shown.textContent);
    said.textContent = "Copied.";
  } catch {
    // Browsers let pages copy over HTTPS and on this machine only.
    getSelection().selectAllChildren(shown);
    said.textContent = "The browser doesn't let this page copy: the code below is selected.";
  }
}

function useToken(text) {
  text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN);
  document.getElementById("token-text").value = "";
  document.getElementById("access").open = false;
  show();
}

addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  if (form.id === "token") useToken(form.querySelector("input").value);
  else if (form.dataset.post) change(form, event.submitter);
  else if (form.dataset.predict) answer(form, form.dataset.predict, {});
  else if (form.dataset.go) location.hash = `${form.dataset.go}?${new URLSearchParams(new FormData(form))}`;
});

addEventListener("click", (event) => {
  const skip = event.target.closest(".skip");
  if (skip) {
    event.preventDefault();
    document.getElementById(skip.dataset.skip ?? "main").focus();
  }
  if (event.target.id === "forget") useToken("");
  if (event.target.dataset?.copy) copy(event.target);
  if (event.target.dataset?.explain) explain(event.target);
  if (event.target.dataset?.zoom) {
    zoomBy(event.target.closest("section").querySelector(".graph"), event.target.dataset.zoom);
  }
});

addEventListener("keydown", (event) => {
  if (event.target.matches?.(".graph") && moveByKey(event.target, event.key)) event.preventDefault();
});
addEventListener("pointerdown", (event) => panBy(event));
addEventListener("change", (event) => {
  if (event.target.type === "file") previewImage(event.target);
});
for (const kind of ["dragover", "dragleave", "drop"]) addEventListener(kind, dropImage);
for (const kind of ["mouseover", "focusin"]) {
  addEventListener(kind, ({ target }) => {
    const call = target.closest?.(".call") ?? target.querySelector?.(":scope > .call");
    for (const other of main.querySelectorAll(".sibling")) other.classList.remove("sibling");
    if (!call?.classList.contains("shared")) return;
    for (const other of call.closest("svg").querySelectorAll(".shared")) {
      other.classList.toggle("sibling", other.dataset.layer === call.dataset.layer);
    }
  });
}
addEventListener("hashchange", show);
show();
