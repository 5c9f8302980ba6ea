"use strict";
// The page of the API: searches it, and sends its requests.  Whatever a server answers becomes text, never HTML.

const BASE = new URL("./", location.href); // the page is /docs, also where a proxy puts something before it
const STORED = "suisen-api-key";
const SHOWN = 200000; // characters of an answer
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const one = (selector, within = document) => within.querySelector(selector);

function made(kind, text, name = "") {
  const element = document.createElement(kind);
  element.textContent = text;
  if (name) element.className = name;
  return element;
}

// -- the key ----------------------------------------------------------------------------------------------------------

const key = one("#key");
if (key) {
  key.value = sessionStorage.getItem(STORED) || "";
  key.addEventListener("input", () => {
    sessionStorage.setItem(STORED, key.value);
    all(".request").forEach(show);
  });
  one("#forget").addEventListener("click", () => {
    sessionStorage.removeItem(STORED);
    key.value = "";
    all(".request").forEach(show);
  });
}

// -- a request --------------------------------------------------------------------------------------------------------

function built(request) {
  let path = request.dataset.path.slice(1);
  const query = new URLSearchParams();
  const headers = {};
  let body;
  for (const field of all("[data-in]", request)) {
    const { in: place, name, media } = field.dataset;
    const value = field.value;
    if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(value));
    else if (place === "body") {
      headers["Content-Type"] = media;
      body = value;
    } else if (value !== "" && place === "query") query.append(name, value);
    else if (value !== "") headers[name] = value;
  }
  const url = new URL(path, BASE);
  url.search = query.toString();
  return { method: request.dataset.method, url: url.href, headers, body };
}

const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curl(request) {
  const { method, url, headers, body } = built(request);
  const words = ["curl", ...(method === "GET" || (method === "POST" && body !== undefined) ? [] : ["-X", method]), quoted(url)];
  if ("keyed" in request.dataset) words.push("-H", '"X-Api-Key: $SUISEN_API_KEY"');
  for (const [name, value] of Object.entries(headers)) words.push("-H", quoted(`${name}: ${value}`));
  if (body !== undefined) words.push("-d", quoted(body));
  return words.join(" ");
}

function show(request) {
  one(".curl", request).textContent = curl(request);
}

// JSON in lines; numbers that JavaScript would round are left as they came.
function readable(text) {
  if (/[:[,]\s*-?[0-9]{16,}(?![0-9.eE])/.test(text)) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function told(reply, words, bad, text) {
  const parts = [made("p", words, bad ? "outcome bad" : "outcome")];
  if (text) {
    const whole = readable(text);
    const shown = made("pre", whole.slice(0, SHOWN));
    shown.tabIndex = 0;
    shown.setAttribute("aria-label", "The answer");
    parts.push(shown);
    if (whole.length > SHOWN) parts.push(made("p", `The first ${SHOWN} of ${whole.length} characters.`, "muted"));
  }
  reply.replaceChildren(...parts);
  reply.hidden = false;
}

async function send(request) {
  const button = one(".send", request);
  const reply = one(".reply", request);
  const lacking = all("[required]", request).filter((field) => field.value === "");
  for (const field of all("[required]", request)) field.setAttribute("aria-invalid", String(lacking.includes(field)));
  if (lacking.length) {
    told(reply, `${lacking[0].dataset.name} is empty; it is a part of the path`, true, "");
    lacking[0].focus();
    return;
  }
  const { method, url, headers, body } = built(request);
  if (key && key.value && "keyed" in request.dataset) headers["X-Api-Key"] = key.value;
  button.disabled = true;
  const began = performance.now();
  try {
    const options = { method, headers, body, cache: "no-store", credentials: "omit", redirect: "error" };
    const answer = await fetch(url, options);
    const text = await answer.text();
    const again = answer.headers.get("retry-after");
    const parts = [`${answer.status} ${answer.statusText}`.trim(), `${Math.round(performance.now() - began)} ms`];
    parts.push(`request ${answer.headers.get("x-request-id")}`);
    if (again) parts.push(`again in ${again} s`);
    told(reply, parts.join(" · "), !answer.ok, text);
  } catch (error) {
    told(reply, `No answer: ${error.message}`, true, "");
  } finally {
    button.disabled = false;
  }
}

async function copy(request) {
  const shown = one(".curl", request);
  try {
    await navigator.clipboard.writeText(shown.textContent);
    one(".copy", request).textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(shown); // without HTTPS there is no clipboard: it is marked, to be copied by hand
  }
}

for (const request of all(".request")) {
  show(request);
  request.addEventListener("input", () => show(request));
  one(".send", request).addEventListener("click", () => send(request));
  one(".copy", request).addEventListener("click", () => copy(request));
  request.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send(request);
    else if (event.key === "Enter" && event.target.matches("input")) send(request);
  });
}

// -- search and links -------------------------------------------------------------------------------------------------

const search = one("#search");
const entries = all(".entry").map((entry) => ({ entry, words: entry.textContent.toLowerCase() }));
const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));

function find() {
  const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { entry, words } of entries) {
    const shown = wanted.every((word) => words.includes(word));
    count += shown;
    entry.hidden = !shown;
    links.get(entry.id).parentElement.hidden = !shown;
  }
  one("#found").textContent = wanted.length ? `${count} of ${entries.length}` : "";
}

// A link leads to its entry, also where the search hides it.
function follow() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (const link of links.values()) link.removeAttribute("aria-current");
  if (!target) return;
  links.get(target.id)?.setAttribute("aria-current", "true");
  if (target.hidden) {
    search.value = "";
    find();
    target.scrollIntoView();
  }
}

search.addEventListener("input", find);
search.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    search.value = "";
    find();
  }
});
addEventListener("keydown", (event) => {
  const typing = event.target instanceof Element && event.target.matches("input, select, textarea");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    search.focus();
  }
});
addEventListener("hashchange", follow);
follow();
